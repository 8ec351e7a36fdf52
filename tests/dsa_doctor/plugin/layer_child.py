"""What tests share that compute with vLLM's own layers under the plugin, on the CPU, in a process of their own.

A test calls `answers_of`; the module that it names calls `reply`. Compute capability 8.0 is in force there, vLLM's
Triton kernels are interpreted, and the plugin's ops are the references or, interpreted as well, its own kernels.
Compiled kernels that layers of more than one family call are written out here, by their contracts.
"""

import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_REPOSITORY = Path(__file__).parents[3]
_VARIABLES = {
    "TRITON_INTERPRET": "1",
    "CUDA_VISIBLE_DEVICES": "",  # vLLM then takes Triton as usable without an active driver
    "VLLM_PLUGINS": "",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "DSA_DOCTOR_PLUGIN": "auto",
    "TORCHDYNAMO_DISABLE": "1",  # what vLLM compiles for a GPU
}


def answers_of(module: str, root: Path, request: dict[str, Any], **variables: str) -> dict[str, Any]:
    """Run a module that calls `reply`, and return its answer.

    Args:
        module: its full name.
        root: a release, see `tests.releases`.
        request: as the module reads it.
        variables: of its environment; DSA_DOCTOR_KERNELS="triton" for the kernels instead of the references.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps({"root": str(root), **request}),
        capture_output=True,
        text=True,
        check=False,
        cwd=_REPOSITORY,
        env={
            **os.environ,
            **_VARIABLES,
            "PYTHONPATH": os.pathsep.join((str(_REPOSITORY), str(_REPOSITORY / "kernels"))),
            **variables,
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout))


def reply(computed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer the request on standard input, with the release and the plugin loaded, and end the process."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM's own output must not mix with the answer
    request = json.load(sys.stdin)
    if os.environ.get("DSA_DOCTOR_KERNELS") == "triton":
        from tests.dsa_kernels import conftest  # noqa: F401  # teaches the interpreter bf16
    emulated = _load(request["root"])
    with emulated.tensors_on("cpu"):
        answer = computed(request)
    output.write(json.dumps(answer))
    output.flush()
    os._exit(0)


def _load(root: str) -> Any:
    """Import the release below `root` with 8.0 in force, and load the plugin as vLLM would."""
    sys.path.insert(0, root)
    from dsa_doctor.compat import emulation

    emulated = emulation.install("8.0", unloadable="any")
    import vllm  # noqa: F401

    emulated.platform()
    emulated.inspect_models_here()
    from dsa_doctor.plugin import entry, report

    report.refuse_or_log = lambda vllm_config: None
    entry.register()
    return emulated


def engine_config(model: dict[str, Any], **options: Any) -> Any:
    """Return vLLM's configuration of a config.json, of which no weights exist; `options` of EngineArgs."""
    from vllm.engine.arg_utils import EngineArgs

    folder = tempfile.mkdtemp()
    Path(folder, "config.json").write_text(json.dumps(model), encoding="utf-8")
    given = {
        "max_model_len": 1024, "max_num_seqs": 4, "max_num_batched_tokens": 1024, "enforce_eager": True, **options,
    }  # fmt: skip
    return EngineArgs(model=folder, load_format="dummy", skip_tokenizer_init=True, **given).create_engine_config()


def constructed(config: Any, construct: Callable[[], Any]) -> Any:
    """Return what `construct` builds of vLLM's layers, in bf16, as the only rank of a server."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.v1.worker.workspace import init_workspace_manager

    torch.set_default_dtype(torch.bfloat16)
    with set_current_vllm_config(config):
        init_distributed_environment(1, 0, f"file://{tempfile.mkdtemp()}/rendezvous", 0, "gloo")
        initialize_model_parallel(1, 1)
        init_workspace_manager(torch.device("cpu"))
        made = construct()
    torch.set_default_dtype(torch.float32)
    return made


class Layout(NamedTuple):
    """How the cache of a layer lies in memory."""

    block: int
    """Tokens of a block."""
    each: int
    """Blocks of a request: where they are fewer than its tokens fill, the last is written again and again."""
    rows: tuple[int, ...]
    """Shape of a block."""


Ranges = list[tuple[int, int, int]]
"""What a step computes: (request, first token, end) in order, those that decode first."""


class Caches:
    """Every cache of some layers, in blocks that lie apart, and the tables of the requests."""

    def __init__(self, layers: dict[str, Any], config: Any, requests: int, layout: Callable[[Any], Layout]) -> None:
        """Allocate, for a number of requests; `layout` of the layer's own specification."""
        import torch

        self.builders: dict[str, Any] = {}
        self.tables: dict[str, Any] = {}
        self.blocks: dict[str, int] = {}
        generator = torch.Generator().manual_seed(7)
        for name, layer in layers.items():
            spec = layer.get_kv_cache_spec(config)
            if spec is None:
                continue
            self.blocks[name], each, rows = layout(spec)
            blocks = each * requests + 1  # block 0 belongs to nobody
            apart = torch.zeros((blocks, 2, *rows), dtype=spec.dtype)
            apart[:, 1] = 77  # what lies between the blocks
            layer.kv_cache = apart[:, 0]
            self.tables[name] = (1 + torch.randperm(blocks - 1, generator=generator)).view(requests, each).int()
            builder = layer.get_attn_backend().get_builder_cls()
            taken = inspect.signature(builder.__init__).parameters
            more = {"block_table_width": each} if "block_table_width" in taken else {}
            self.builders[name] = builder(spec, [name], config, torch.device("cpu"), **more)

    def metadata(self, step: Ranges) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Return metadata and slots of every cache, and the positions of the tokens, of one step."""
        import torch
        from vllm.v1.attention.backend import CommonAttentionMetadata

        counts = [end - first for _, first, end in step]
        starts = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32)
        ends = torch.tensor([end for _, _, end in step], dtype=torch.int32)
        positions = torch.cat([torch.arange(first, end) for _, first, end in step])
        owners = torch.repeat_interleave(torch.tensor([request for request, _, _ in step]), torch.tensor(counts))
        found, slots = {}, {}
        for name, builder in self.builders.items():
            block, table = self.blocks[name], self.tables[name]
            column = (positions // block).clamp_max(table.shape[1] - 1)
            slots[name] = table[owners, column].long() * block + positions % block
            common = CommonAttentionMetadata(
                query_start_loc=starts,
                query_start_loc_cpu=starts,
                seq_lens=ends,
                num_reqs=len(step),
                num_actual_tokens=len(positions),
                max_query_len=max(counts),
                max_seq_len=int(ends.max()),
                block_table_tensor=table[[request for request, _, _ in step]].clone(),
                slot_mapping=slots[name],
                positions=positions,
                seq_lens_cpu_upper_bound=ends,
            )
            found[name] = builder.build(0, common)
        return found, slots, positions


def deal_out(step: Ranges, rows: Any, requests: list[Any]) -> None:
    """Write what a step gave for its tokens, [tokens, n], to where they stand in their requests, [T, n] each."""
    at = 0
    for owner, first, end in step:
        requests[owner][first:end] = rows[at : at + end - first]
        at += end - first


def write_out_shared_kernels() -> None:
    """Give the gather of index keys, and the product that names its result's type, an implementation."""
    import torch
    from vllm import _custom_ops

    from dsa_kernels.fp8.naive import naive_read_indexer_cache

    def gather(cache: Any, keys: Any, scales: Any, table: Any, starts: Any) -> None:
        rows = [
            table[request, position // cache.shape[1]] * cache.shape[1] + position % cache.shape[1]
            for request, (first, last) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))
            for position in range(last - first)
        ]
        found, scale = naive_read_indexer_cache(cache, torch.stack(rows).long())
        keys[: len(rows)].view(torch.uint8).copy_(found.view(torch.uint8))
        scales[: len(rows)].view(torch.float32).copy_(scale.unsqueeze(-1))

    product = torch.mm

    def mm(a: Any, b: Any, out_dtype: Any = None) -> Any:
        return product(a, b) if out_dtype is None else product(a.to(out_dtype), b.to(out_dtype))

    _custom_ops.cp_gather_indexer_k_quant_cache = gather
    torch.mm = mm
    torch.cuda.is_current_stream_capturing = lambda: False


def copy_all(weights: Iterable[Sequence[Any]]) -> None:
    """Write the tensors that follow it in each row, one below the other, into the row's first."""
    import torch

    with torch.no_grad():
        for target, *sources in weights:
            target.copy_(torch.cat(sources))


def draw(module: Any, seed: int) -> None:
    """Draw weights as a checkpoint has them, in values that bf16 holds."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator)
        if "norm" in name:
            drawn = 1 + 0.3 * drawn
        elif "sinks" not in name and "position_bias" not in name:
            drawn = drawn / weight.shape[-1] ** 0.5
        weight.data = drawn.bfloat16().float()


def as_stored(values: Any) -> Any:
    """Return index queries or keys [..., 128] as e4m3 codes with one power-of-two scale a row stand for them."""
    from dsa_kernels.fp8.naive import naive_quantize_fp8

    codes, scale = naive_quantize_fp8(values.bfloat16())
    return codes.float() * scale
