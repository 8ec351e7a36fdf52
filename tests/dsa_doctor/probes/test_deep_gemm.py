import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsa_doctor.facts.schema import DeepGemmCopy
from dsa_doctor.probes import deep_gemm
from dsa_doctor.probes.environment import Environment

MakeSite = Callable[..., Environment]
VENDORED = "vllm/third_party/deep_gemm/__init__.py"


def only(environment: Environment) -> DeepGemmCopy:
    observation = deep_gemm.probe(environment)
    assert observation.value is not None, observation
    assert len(observation.value.copies) == 1
    return observation.value.copies[0]


@pytest.mark.slow
def test_vendored_copy_of_the_installed_vllm_fares_as_it_does_in_vllm(vllm_dir: Path) -> None:
    copy = next(
        copy
        for copy in (deep_gemm.probe(Environment.current()).value or pytest.fail("none")).copies
        if copy.source == "vendored"
    )
    assert copy.version is not None
    code = "import vllm.third_party.deep_gemm as found; print('version', found.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert copy.importable.value is (done.returncode == 0)
    if done.returncode == 0:
        assert f"version {copy.version}" in done.stdout
    else:
        assert copy.failure is not None
        # The same exception, and where a library is missing one of those that vLLM's own import misses.
        last = done.stderr.strip().splitlines()[-1].split(": ")[0]
        assert any(line.startswith(last) for line in copy.importable.evidence)
        assert str(vllm_dir.parent) not in copy.model_dump_json()


def test_none_is_absent(tmp_path: Path) -> None:
    observation = deep_gemm.probe(Environment(python=Path(sys.executable), search_path=(tmp_path,)))
    assert observation.status == "absent"


def test_external_copy_comes_first(site: MakeSite) -> None:
    environment = site({"deep_gemm/__init__.py": "__version__ = '9.1'\n", VENDORED: "__version__ = '2.0'\n"})
    observation = deep_gemm.probe(environment)
    assert observation.value is not None
    assert [(copy.source, copy.version, copy.importable.value) for copy in observation.value.copies] == [
        ("external", "9.1", True),
        ("vendored", "2.0", True),
    ]


def test_vendored_copy_is_imported_under_its_own_name_without_running_vllm(site: MakeSite) -> None:
    copy = only(
        site(
            {
                "vllm/__init__.py": "raise RuntimeError('vllm was run')\n",
                VENDORED: "assert __name__ == 'vllm.third_party.deep_gemm'\nfrom . import part\n__version__ = '1'\n",
                "vllm/third_party/deep_gemm/part.py": "from vllm.third_party import deep_gemm\n",
            }
        )
    )
    assert copy.importable.value is True, copy


FIND_CUDA_HOME = """
def _find_cuda_home():
    cuda_home = None
    assert cuda_home is not None
    return cuda_home
_find_cuda_home()
"""


@pytest.mark.parametrize(
    ("source", "failure", "told"),
    [
        (FIND_CUDA_HOME, "no_cuda_toolkit", "AssertionError:  (in _find_cuda_home)"),
        ("raise RuntimeError('CUDA_HOME is not set')", "no_cuda_toolkit", "CUDA_HOME"),
        (
            "import ctypes\ntry: ctypes.CDLL('libcuda.so.99')\nexcept OSError as e: raise ImportError('x') from e",
            "no_driver_or_cuda_torch",
            "libcuda.so.99: cannot open shared object file",
        ),
        ("import torch_of_another_planet", "broken", "torch_of_another_planet"),
        ("raise ImportError('_C.so: undefined symbol: _ZN3c104cuda')", "broken", "undefined symbol"),
        ("def f(:", "broken", "SyntaxError"),
        ("raise SystemExit(0)", "broken", "SystemExit"),
    ],
)
def test_import_that_raises_is_told_with_its_class(site: MakeSite, source: str, failure: str, told: str) -> None:
    copy = only(site({VENDORED: source}))
    assert copy.importable.value is False
    assert copy.failure == failure
    assert any(told in line for line in copy.importable.evidence)


@pytest.mark.parametrize(
    ("source", "importable"),
    [
        ("raise SystemExit('not come to')\nfrom . import _C", False),
        ("from ._C import a", False),
        ("try:\n    from . import _C\nexcept ImportError:\n    pass", True),
        ("def later():\n    from . import _C", True),
    ],
)
def test_missing_library_settles_the_matter_only_where_the_package_needs_its_compiled_part(
    site: MakeSite, extensions: list[Path], source: str, importable: bool
) -> None:
    small = next(path for path in extensions if b"PyBuffer_Release\0" in path.read_bytes()[:65536])
    patched = small.read_bytes().replace(b"libnvrtc.so.", b"libnvrtc.so:", 1)
    copy = only(site({VENDORED: source, "vllm/third_party/deep_gemm/_C_extension.abi3.so": patched}))
    assert copy.importable.value is importable
    if not importable:
        assert copy.failure == "no_driver_or_cuda_torch"
        assert "cannot open shared object file" in copy.importable.evidence[0]


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
        ("import time; time.sleep(60)", "no answer within"),
        ("import os; os._exit(7)", "exit status 7"),
        ("import os; os.write(int(os.environ['DSA_DOCTOR_ANSWER_FD']), b'{]'); os._exit(0)", "no readable answer"),
        ("import os; os.write(int(os.environ['DSA_DOCTOR_ANSWER_FD']), b'{}'); os._exit(0)", "no readable answer"),
    ],
)
def test_import_that_breaks_the_child_is_unknown(
    site: MakeSite, monkeypatch: pytest.MonkeyPatch, source: str, cause: str
) -> None:
    monkeypatch.setattr(deep_gemm, "_TIMEOUT", 3.0)
    copy = only(site({VENDORED: source}))
    assert copy.importable.status == "unknown"
    assert cause in (copy.importable.cause or "")
    assert copy.failure is None


def test_banners_and_secrets_of_the_package(site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "print('banner' * 100000, flush=True)\nraise ValueError('api_key=hunter2secret in ' + __file__)"
    environment = site({VENDORED: source})
    copy = only(environment)
    assert copy.importable.value is False
    text = copy.model_dump_json()
    assert "hunter2secret" not in text
    assert str(environment.search_path[0]) not in text
    assert "vllm/third_party/deep_gemm/__init__.py" in text


def test_files_without_an_interpreter_are_not_tried(site: MakeSite) -> None:
    copy = only(site({VENDORED: "__version__ = '3'"}, python=None))
    assert (copy.version, copy.importable.status) == ("3", "unknown")
