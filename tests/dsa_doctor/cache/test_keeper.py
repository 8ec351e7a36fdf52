"""What makes a kept answer void: every ingredient of its key, every file and variable of its run, and every failure."""

import os
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from dsa_doctor.cache import Keeper, Store, Trace, identity, keeper_from_environment
from dsa_doctor.cache import keeper as module
from dsa_doctor.facts.observation import Fact, Observation
from dsa_doctor.probes.environment import Environment

QUESTION = {"probe": "test"}


class Answer(Fact):
    text: str
    number: int = 0


class Installed:
    """A small environment of real files, older than any run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.site = root / "lib" / "site-packages"
        self.python = root / "bin" / "python"
        self.library = root / "loaded" / "module.py"
        for path in (
            self.python,
            root / "pyvenv.cfg",
            self.site / "vllm" / "__init__.py",
            self.site / "vllm" / "sub" / "module.py",
            self.site / "vllm" / "_C.abi3.so",
            self.site / "vllm-0.33.0.dist-info" / "RECORD",
            self.site / "torch" / "version.py",
            self.site / "torch" / "lib" / "libtorch.so",
            self.site / "torch-2.0.dist-info" / "METADATA",
            self.site / "deep_gemm" / "__init__.py",
            self.site / "flashinfer_python-0.7.dist-info" / "RECORD",
            self.site / "nvidia" / "nccl" / "lib" / "libnccl.so.2",
            self.site / "plugin-1.0.dist-info" / "entry_points.txt",
            self.site / "__editable__.pth",
            self.library,
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("one\n")

    @property
    def environment(self) -> Environment:
        return Environment(python=self.python, search_path=(self.site,))

    def trace(self) -> Trace:
        looked_for = self.root / "loaded" / "libmissing.so"
        return Trace(files={str(self.library), str(looked_for)}, variables={"READ_BY_THE_CHILD"})


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    monkeypatch.setattr(module, "_RACY_NANOSECONDS", -60_000_000_000)  # the files are new, and so is the run
    monkeypatch.setenv("READ_BY_THE_CHILD", "one")
    return Installed(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "answers")


def keep(store: Store, installed: Installed, *, question: dict[str, object] | None = None) -> bool:
    return Keeper(store).write(
        installed.environment,
        question or QUESTION,
        Answer,
        Answer(text="kept"),
        installed.trace(),
        started_ns=time.time_ns(),
    )


def read(store: Store, installed: Installed) -> str | None:
    """Read as another run would: with a keeper of its own."""
    found = Keeper(store).read(installed.environment, QUESTION, Answer)
    return None if found is None else found.value.text


def rewrite(path: str) -> Callable[[Installed, pytest.MonkeyPatch], None]:
    """Change a file in place; its size stays, and its modification time is set back as an unpacker would."""

    def change(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
        file = installed.root / path
        before = file.stat()
        time.sleep(0.02)  # more than a tick of the file system's clock
        file.write_text("two\n")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


def add(path: str) -> Callable[[Installed, pytest.MonkeyPatch], None]:
    def change(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
        file = installed.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("new\n")

    return change


def remove(path: str) -> Callable[[Installed, pytest.MonkeyPatch], None]:
    return lambda installed, monkeypatch: (installed.root / path).unlink()


def variable(name: str, value: str = "two") -> Callable[[Installed, pytest.MonkeyPatch], None]:
    return lambda installed, monkeypatch: monkeypatch.setenv(name, value)


def own_version(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsa_doctor.__version__", "99")


def own_sources(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsa_doctor.__file__", str(installed.site / "vllm" / "__init__.py"))


def kernel(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "6.99")


def user(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    # The store looks at the owner as well; here only the key may tell the two apart.
    mine = os.geteuid()
    monkeypatch.setattr("dsa_doctor.cache.store._is_private", lambda *_: True)
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)


def driver(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    version = installed.root / "driver"
    version.write_text("NVRM version: 999")
    monkeypatch.setattr(identity, "_SYSTEM_FILES", (*identity._SYSTEM_FILES, str(version)))


def driver_library(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    (installed.root / "libcuda.so.1").write_text("")
    monkeypatch.setattr(identity, "_LIBRARY_FOLDERS", (*identity._LIBRARY_FOLDERS, str(installed.root)))


def gpu_appears(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    names = identity._names
    monkeypatch.setattr(identity, "_names", lambda one: [*names(one), "nvidia7"] if one == "/dev" else names(one))


def toolkit(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: str(installed.library) if name == "nvcc" else None)


def other_interpreter_version(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    target = installed.root / "python3.99"
    target.write_text("one\n")
    installed.python.unlink()
    installed.python.symlink_to(target)


SITE = "lib/site-packages"
CHANGES: dict[str, Callable[[Installed, pytest.MonkeyPatch], None]] = {
    "vLLM's sources, in place": rewrite(f"{SITE}/vllm/sub/module.py"),
    "vLLM's compiled module": rewrite(f"{SITE}/vllm/_C.abi3.so"),
    "a new source of vLLM": add(f"{SITE}/vllm/sub/new.py"),
    "a source of vLLM gone": remove(f"{SITE}/vllm/sub/module.py"),
    "vLLM installed again": rewrite(f"{SITE}/vllm-0.33.0.dist-info/RECORD"),
    "torch's version": rewrite(f"{SITE}/torch/version.py"),
    "torch's library": rewrite(f"{SITE}/torch/lib/libtorch.so"),
    "torch installed again": rewrite(f"{SITE}/torch-2.0.dist-info/METADATA"),
    "DeepGEMM": rewrite(f"{SITE}/deep_gemm/__init__.py"),
    "FlashInfer installed again": rewrite(f"{SITE}/flashinfer_python-0.7.dist-info/RECORD"),
    "FlashInfer's cubins installed": add(f"{SITE}/flashinfer_cubin-0.7.dist-info/RECORD"),
    "a CUDA library": rewrite(f"{SITE}/nvidia/nccl/lib/libnccl.so.2"),
    "a plugin's entry points": rewrite(f"{SITE}/plugin-1.0.dist-info/entry_points.txt"),
    "a plugin installed": add(f"{SITE}/other-1.0.dist-info/entry_points.txt"),
    "an editable installation": rewrite(f"{SITE}/__editable__.pth"),
    "a module that shadows another": add(f"{SITE}/torch.py"),
    "a package added": add(f"{SITE}/newcomer/__init__.py"),
    "the interpreter": rewrite("bin/python"),
    "another interpreter behind the link": other_interpreter_version,
    "the virtual environment": rewrite("pyvenv.cfg"),
    "a file that the run loaded": rewrite("loaded/module.py"),
    "a loaded file gone": remove("loaded/module.py"),
    "a library that was looked for in vain": add("loaded/libmissing.so"),
    "a variable that the run read": variable("READ_BY_THE_CHILD"),
    "a variable of vLLM": variable("VLLM_ATTENTION_BACKEND"),
    "a variable of torch": variable("TORCH_LOGS"),
    "a variable of CUDA": variable("CUDA_VISIBLE_DEVICES", "3"),
    "a variable of FlashInfer": variable("FLASHINFER_CUDA_ARCH_LIST"),
    "a variable of the loader": variable("LD_PRELOAD"),
    "a variable of Python": variable("PYTHONPATH"),
    "the path": variable("PATH", "/nowhere"),
    "dsa-doctor's version": own_version,
    "dsa-doctor's sources": own_sources,
    "the kernel": kernel,
    "the user": user,
    "the driver": driver,
    "the driver's library": driver_library,
    "a GPU": gpu_appears,
    "the CUDA toolkit": toolkit,
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_makes_it_void(
    name: str, store: Store, installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keep(store, installed)
    assert read(store, installed) == "kept"
    CHANGES[name](installed, monkeypatch)
    assert read(store, installed) is None


def byte_code(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    add(f"{SITE}/vllm/__pycache__/module.cpython-311.pyc")(installed, monkeypatch)
    add(f"{SITE}/__pycache__/module.cpython-311.pyc")(installed, monkeypatch)


@pytest.mark.parametrize(
    "harmless",
    [byte_code, variable("TERM", "dumb"), variable("HF_TOKEN", "hf_secret"), variable("DSA_DOCTOR_PLUGIN", "off")],
    ids=["byte code", "the terminal", "a token", "the plugin's switch"],
)
def test_what_changes_no_answer_costs_nothing(
    harmless: Callable[[Installed, pytest.MonkeyPatch], None],
    store: Store,
    installed: Installed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep(store, installed)
    harmless(installed, monkeypatch)
    assert read(store, installed) == "kept"


def test_another_question_is_another_entry(store: Store, installed: Installed) -> None:
    keep(store, installed, question={**QUESTION, "plugins": ["dsa_doctor"]})
    assert read(store, installed) is None


def test_nothing_readable_of_the_variables_is_written(
    store: Store, installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READ_BY_THE_CHILD", "a-value-of-mine")
    monkeypatch.setenv("VLLM_HOST_IP", "10.11.12.13")
    keep(store, installed)
    (entry,) = store.folder.iterdir()
    assert b"a-value-of-mine" not in entry.read_bytes()
    assert b"10.11.12.13" not in entry.read_bytes() + entry.name.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"key": "x"}',
        b'{"value": {"text": 1}}',
        '{"value": {"text": "kept"}}'.encode("utf-16"),
    ],
)
def test_a_hostile_entry_is_not_believed(content: bytes, store: Store, installed: Installed) -> None:
    keep(store, installed)
    (entry,) = store.folder.iterdir()
    store.put(entry.name.removesuffix(".answer"), content)
    assert read(store, installed) is None


@pytest.mark.parametrize("wrong", ["value", "key", "made", "surplus"])
def test_a_sealed_entry_with_a_wrong_field_is_not_believed(wrong: str, store: Store, installed: Installed) -> None:
    keep(store, installed)
    (entry,) = store.folder.iterdir()
    key = entry.name.removesuffix(".answer")
    text = (store.get(key) or b"").decode()
    tomorrow = (datetime.now(timezone.utc) + timedelta(days=1)).isoformat()
    found = module.Entry[Answer].model_validate_json(text)
    changed = {
        "value": text.replace('"number":0', '"number":"many"'),
        "key": text.replace(key, "0" * 64),
        "made": found.model_copy(update={"made": datetime.fromisoformat(tomorrow)}).model_dump_json(),
        "surplus": text[:-1] + ', "more": 1}',
    }[wrong]
    assert changed != text
    store.put(key, changed.encode())
    assert read(store, installed) is None


def test_a_failure_is_never_kept(store: Store, installed: Installed) -> None:
    calls = []

    def broken(trace: Trace) -> Observation[Answer]:
        calls.append(1)
        trace.add_child("timeout", {})
        return Observation[Answer].ok(Answer(text="half of it"))

    def unknown(trace: Trace) -> Observation[Answer]:
        calls.append(1)
        return Observation[Answer].unknown("the probe broke")

    for probe in (broken, broken, unknown, unknown):
        Keeper(store).observation("test", installed.environment, Answer, probe)
    assert len(calls) == 4
    assert store.content().entries == 0


@pytest.mark.parametrize(
    "loaded", [None, [], {"files": "x", "variables": []}, {"files": [1], "variables": []}, {"files": ["x"] * 50_001}]
)
def test_a_child_whose_report_is_no_report_is_not_kept(loaded: object) -> None:
    trace = Trace()
    trace.add_child("answered", {"loaded": loaded})
    assert trace.broke


def test_an_answer_says_from_when_it_is(store: Store, installed: Installed) -> None:
    asked = []

    def probe(trace: Trace) -> Observation[Answer]:
        asked.append(1)
        return Observation[Answer].ok(Answer(text="fresh"))

    before = datetime.now(timezone.utc)
    first = Keeper(store).observation("test", installed.environment, Answer, probe)
    second = Keeper(store).observation("test", installed.environment, Answer, probe)
    assert (len(asked), first.kept_from, second.value) == (1, None, Answer(text="fresh"))
    assert second.kept_from is not None
    assert before <= second.kept_from <= datetime.now(timezone.utc)


def test_a_file_that_changes_while_the_probe_runs_is_not_trusted(store: Store, installed: Installed) -> None:
    def probe(trace: Trace) -> Observation[Answer]:
        time.sleep(0.02)
        (installed.site / "vllm" / "sub" / "module.py").write_text("two\n")
        return Observation[Answer].ok(Answer(text="of which?"))

    Keeper(store).observation("test", installed.environment, Answer, probe)
    assert store.content().entries == 0


def test_a_loaded_file_that_was_just_changed_is_not_trusted(
    store: Store, installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RACY_NANOSECONDS", 2_000_000_000)
    assert keep(store, installed) is False


def test_a_folder_of_this_run_alone_is_not_kept(store: Store, installed: Installed) -> None:
    unpacked = Environment(python=Path(sys.executable), search_path=(installed.site,), temporary=True)
    keeper = Keeper(store)
    assert keeper.write(unpacked, QUESTION, Answer, Answer(text="x"), Trace(), started_ns=time.time_ns()) is False


def test_the_switches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("DSA_DOCTOR_CACHE", "on")
    assert keeper_from_environment() is not None
    assert keeper_from_environment(wanted=False) is None
    monkeypatch.setenv("DSA_DOCTOR_CACHE", "OFF")
    assert keeper_from_environment() is None
    monkeypatch.setenv("DSA_DOCTOR_CACHE", "never")
    with pytest.raises(ValueError, match=r"DSA_DOCTOR_CACHE='never' is not accepted. Accepted: on"):
        keeper_from_environment()


def test_the_running_environment_is_another_one(store: Store, installed: Installed) -> None:
    """Its children see this process's settings, which those of a foreign interpreter do not."""
    keep(store, installed)
    own = Environment(python=installed.python, search_path=(installed.site,), own=True)
    assert Keeper(store).read(own, QUESTION, Answer) is None
