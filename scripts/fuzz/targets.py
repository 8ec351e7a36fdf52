"""Readers of what comes from outside, each as a function of bytes that raises nothing but its own error.

No fuzzer is needed to import this: tests run the same targets on their seeds and on what was once found.
"""

import atexit
import contextlib
import gzip
import io
import json
import os
import shutil
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dsa_doctor.binaries import ElfError, PayloadError, SharedObject, kernel_names, op_schemas, scan_fatbins
from dsa_doctor.binaries.modules import ModulesInWheel
from dsa_doctor.catalog.geometry import ConfigError, geometry_from_config
from dsa_doctor.explain import explain
from dsa_doctor.facts.load import facts_from_text
from dsa_doctor.launch.stages import LogFacts
from dsa_doctor.planner.headers import HeaderError, stored_tensors
from dsa_doctor.policy.load import PolicyError, load_policy
from dsa_doctor.policy.manifest import ManifestError, find_pin
from dsa_doctor.probes.wheels import WheelError, unpack
from dsa_doctor.reading import ReadingError, decode, parse_json, read_file
from dsa_doctor.redaction import redact
from dsa_doctor.render.json import render_json

ROOT = Path(__file__).parents[2]
_FOLDER = Path(tempfile.mkdtemp(prefix="dsa-doctor-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
_LARGEST_ANSWER = 64 << 20
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        run: reads the bytes.
        refusals: what it may raise.
        seeds: valid inputs, small.
        words: what a mutation may put in.
        longest: bytes of an input.
    """

    run: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: Callable[[], Iterator[bytes]]
    words: tuple[bytes, ...] = ()
    longest: int = 4096


class TooSlowError(Exception):
    """An input took longer than a second of this process's time."""


def execute(target: Target, data: bytes, *, seconds: float = 1.0) -> object:
    """Read `data`; what is raised is a defect. Time is the process's own: a busy neighbour is none.

    Returns:
        What the reader returned; None where it refused.
    """
    start = time.process_time()
    result = None
    with contextlib.suppress(*target.refusals):
        result = target.run(data)
    if (took := time.process_time() - start) > seconds:
        raise TooSlowError(f"{took:.1f} s for {len(data)} bytes")
    return result


def _file(name: str, data: bytes) -> Path:
    path = _FOLDER / f"{os.getpid()}-{name}"
    path.write_bytes(data)
    return path


def _fatbin(data: bytes) -> object:
    scan = scan_fatbins(data)
    for image in scan.images[:16]:
        with contextlib.suppress(PayloadError):
            kernel_names(data, image)
    return scan, op_schemas(data, 0, len(data))


def _fatbin_seeds() -> Iterator[bytes]:
    import lz4.block
    import zstandard

    names = b"\x7fELF" + bytes(60) + b"\0.shstrtab\0.text._Z3foov\0.shstrtab\0"
    ptx = b".version 8.0\n.visible .entry _Z3foov()\n{}\n"
    plain = [(2, names, 0), (1, ptx, 0), (2, zstandard.compress(names), 0x8000)]
    for kind, payload, flags in [*plain, (1, lz4.block.compress(ptx, store_size=False), 0x2000)]:
        stored = payload + bytes(-len(payload) % 8)
        full = len(names if kind == 2 else ptx)
        entry = struct.pack(
            "<HHIQIIHHIIIQQQ", kind, 0x101, 64, len(stored), len(payload), 0, 0, 1, 80, 0, 0, flags, 0, full
        )
        body = entry + stored
        yield struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body
    yield b"\0_C::topk(Tensor! a, int b=1) -> ()\0"


def _elf(data: bytes) -> object:
    shared = SharedObject(_file("x.so", data))
    return shared.undefined_symbols(), shared.provided(["malloc", "_Z3foov"]), shared.run_path, shared.section(".text")


def _elf_seeds() -> Iterator[bytes]:
    names = b"\0.dynsym\0.dynstr\0.gnu.hash\0.dynamic\0.shstrtab\0"
    strings = b"\0libc.so.6\0malloc\0_Z3foov\0$ORIGIN\0"
    symbols = bytes(24) + struct.pack("<IBBHQQ", 11, 0x12, 0, 0, 0, 0) + struct.pack("<IBBHQQ", 18, 0x12, 0, 1, 0, 0)
    hashed = struct.pack("<4IQII", 1, 2, 1, 6, 2**64 - 1, 2, 0x1F4E7B67 | 1)
    dynamic = struct.pack("<6Q", 1, 1, 29, 26, 0, 0)
    parts, offset, headers = [strings, symbols, hashed, dynamic, names], 64, [bytes(64)]
    kinds = [(9, 3, 0, 0), (1, 11, 1, 24), (17, 0x6FFFFFF6, 2, 0), (27, 6, 1, 16), (36, 3, 0, 0)]
    for part, (name, kind, link, size) in zip(parts, kinds, strict=True):
        headers.append(struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, len(part), link, 0, 8, size))
        offset += len(part)
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, offset, 0, 64, 0, 0, 64, len(headers), 5)
    yield head + b"".join(parts) + b"".join(headers)


def _safetensors(data: bytes) -> object:
    folder = _FOLDER / f"{os.getpid()}-checkpoint"
    folder.mkdir(exist_ok=True)
    length = int.from_bytes(data[:2], "little")  # an index, then one file of the checkpoint
    index, file = folder / "model.safetensors.index.json", folder / "a.safetensors"
    file.write_bytes(data[2 + length :])
    if length:
        index.write_bytes(data[2 : 2 + length])
    else:
        index.unlink(missing_ok=True)
    return stored_tensors(folder)


def _safetensors_seeds() -> Iterator[bytes]:
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, "__metadata__": {"f": "pt"}})
    file = struct.pack("<Q", len(header)) + header.encode() + bytes(12)
    index = json.dumps({"metadata": {"total_size": 12}, "weight_map": {"a": "a.safetensors"}}).encode()
    yield b"\0\0" + file
    yield struct.pack("<H", len(index)) + index + file


def _facts(data: bytes) -> object:
    return facts_from_text(decode(data)).model_dump_json()


def _facts_seeds() -> Iterator[bytes]:
    yield (ROOT / "tests" / "data" / "facts-h100-no-vllm.json").read_bytes()


def _config(data: bytes) -> object:
    content = parse_json(decode(data), finite=False)
    if not isinstance(content, dict):
        return None
    return geometry_from_config(content, name="fuzzed", source="fuzzed").model_dump_json()


def _config_seeds() -> Iterator[bytes]:
    small = {
        "architectures": ["GlmMoeDsaForCausalLM"], "model_type": "glm_moe_dsa", "num_hidden_layers": 2,
        "num_attention_heads": 16, "hidden_size": 64, "vocab_size": 100, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "v_head_dim": 128, "q_lora_rank": 64, "index_topk": 128, "index_n_heads": 4,
        "index_head_dim": 128, "n_routed_experts": 4, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
    }  # fmt: skip
    groups = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 128}}}
    for quantization in (
        None,
        {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]},
        {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["re:.*gate"]},
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "dynamic": {"-:a": {}}},
        {"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["gate"]},
        {"quant_method": "modelopt", "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["*.a"]}},
    ):
        yield json.dumps({**small, **({"quantization_config": quantization} if quantization else {})}).encode()
    yield json.dumps({"model_type": "wrapper", "text_config": small}).encode()


def _policy(data: bytes) -> object:
    return load_policy(_file("dsa-doctor.toml", data)).model_dump_json()


def _policy_seeds() -> Iterator[bytes]:
    yield (ROOT / "examples" / "dsa-doctor.toml").read_bytes()
    yield b"strict = true\nallowed-states = ['native']\n"
    yield b"[suppress]\nDSA201 = [{reason = 'known', expires = 2030-01-01, targets = ['a100']}]\n"


_MANIFESTS = ("requirements.txt", "pyproject.toml", "Dockerfile")


def _manifest(data: bytes) -> object:
    return find_pin(_file(_MANIFESTS[data[0] % 3 if data else 0], data[1:]))  # the first byte says what it is


def _manifest_seeds() -> Iterator[bytes]:
    yield b"\0vllm==0.33.0 --hash=sha256:00\n"
    yield b"\1[project]\ndependencies = ['vllm>=0.30']\nvllm = '^0.3'\n"
    yield b"\2FROM --platform=x vllm/vllm-openai:v0.33.0 AS a\nRUN pip install vllm-0.33.0-cp38-abi3-linux_x86_64.whl\n"


_LONGEST_LOG = 1024


def _log(data: bytes) -> object:
    return render_json(explain(io.BytesIO(data)))


def _log_seeds() -> Iterator[bytes]:
    for name in sorted((ROOT / "tests").rglob("*.log")):
        content = name.read_bytes()
        failure = max(content.rfind(b"Error"), 0)  # what a log is read for stands near its last error
        yield content[max(0, failure - 700) :][:_LONGEST_LOG]
    yield b'Traceback (most recent call last):\n  File "/x/vllm/a.py", line 1, in f\nRuntimeError: CUDA error\n'


def _progress(data: bytes) -> object:
    facts = LogFacts()
    for line in data.decode("utf-8", "replace").splitlines():
        facts.read(line)
    return facts


def _progress_seeds() -> Iterator[bytes]:
    yield b"Model loading took 19.24 GiB\nAvailable KV cache memory: 46.97 GiB\nGPU KV cache size: 5,712,437 tokens\n"
    yield b"Loading safetensors checkpoint shards:  50% Completed\nUsing TRITON_MLA_SPARSE attention backend\n"


def _redaction(data: bytes) -> object:
    return redact(data.decode("utf-8", "replace"))


def _redaction_seeds() -> Iterator[bytes]:
    yield b"non-default args: {'api_key': ['sk-1234'], 'model': 'x'} --api-key abc Authorization: Bearer abcdef\n"
    yield b"https://user:pass@host/x?X-Amz-Signature=00 hf_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa /home/somebody/x\n"


def _wheel(data: bytes) -> object:
    folder = Path(tempfile.mkdtemp(dir=_FOLDER))
    try:
        wheel = _file("vllm-1.0-py3-none-any.whl", data)
        (folder / "whole").mkdir()
        unpack(wheel, folder / "whole")
        unpack(wheel, folder, modules=False)
        modules = ModulesInWheel(wheel, folder)
        for path in modules.paths("vllm"):
            with contextlib.suppress(ElfError):
                modules.read(path)
        return sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wheel_seeds() -> Iterator[bytes]:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            archive.writestr("vllm/__init__.py", "x = 1\n" * 20)
            archive.writestr("vllm/_C.abi3.so", b"\x7fELF" * 20)
        yield stream.getvalue()


def _compressed(data: bytes) -> object:
    return read_file(_file("facts.json", data), limit=_LARGEST_ANSWER)


def _compressed_seeds() -> Iterator[bytes]:
    import bz2
    import lzma

    import zstandard

    for pack in (gzip.compress, bz2.compress, lzma.compress, zstandard.compress):
        yield pack(b'{"a": 1}' * 9)
    yield '{"a": 1}'.encode("utf-16")


_JSON = (b"null", b"true", b"NaN", b"-1", b"1e999", b'":', b"[", b"{", b"}]", b'\\u202e"', b"18446744073709551616")
_TOML = (b"[suppress]", b"DSA201", b"reason", b"expires", b"2030-01-01", b"[[a]]", b'"""', b"'''", b"a.b.c")

TARGETS: dict[str, Target] = {
    "fatbin": Target(_fatbin, (), _fatbin_seeds, (struct.pack("<I", 0xBA55ED50), b".entry ", b" -> ")),
    "elf": Target(_elf, (ElfError,), _elf_seeds, (b"\x7fELF",)),
    "safetensors": Target(_safetensors, (HeaderError,), _safetensors_seeds, (*_JSON, b"data_offsets", b"weight_map")),
    "facts": Target(_facts, (ReadingError,), _facts_seeds, _JSON),
    "config": Target(_config, (ReadingError, ConfigError), _config_seeds, _JSON),
    "policy": Target(_policy, (PolicyError,), _policy_seeds, _TOML),
    "manifest": Target(_manifest, (ManifestError,), _manifest_seeds, (b"vllm", b"FROM ", b"==", b".whl")),
    "log": Target(
        _log,
        (ReadingError,),
        _log_seeds,
        (b"Traceback (most recent call last):\n", b"ERROR ", b"vllm", b"\n"),
        longest=_LONGEST_LOG,
    ),
    "progress": Target(_progress, (), _progress_seeds, (b" GiB", b" tokens", b"% Completed", b"dsa-doctor: ")),
    "redaction": Target(_redaction, (), _redaction_seeds, (b"token", b"api_key", b"Bearer ", b"://", b"hf_", b"'")),
    "wheel": Target(_wheel, (WheelError, OSError), _wheel_seeds, (b"PK\1\2", b"PK\5\6", b"../")),
    "compressed": Target(_compressed, (ReadingError,), _compressed_seeds, (b"\x1f\x8b", b"BZh9", b"\x28\xb5\x2f\xfd")),
}
