import json
import os
import subprocess
import sys

import pytest

# In a process of its own: emulation changes Triton for the whole process, and the interpreter compiles nothing.
COMPILED = """
import json, re, sys
import dsa_kernels
from dsa_kernels.emulation import emulated
from dsa_kernels.aot.compile import all_variants, source_of
from dsa_kernels.aot.sass import disassemble
import triton
from triton.backends.compiler import GPUTarget

variant = next(one for one in all_variants(80) if one.op == "sparse_mla_fwd" and "16 heads" in one.name)
made = triton.compile(source_of(variant), target=GPUTarget("cuda", 90, 32), options={"num_warps": variant.num_warps})
ptx = made.asm["ptx"]
print(json.dumps({
    "emulated": emulated(),
    "target": re.search(r"[.]target (\\w+)", ptx)[1],
    "wgmma": "wgmma" in ptx,
    "mma": "mma.sync" in ptx,
    "cubin": re.search(r"code for (sm_\\d+)", disassemble(made.asm["cubin"]))[1],
    "cache": triton.knobs.cache.dir,
    "override": triton.knobs.runtime.override_arch,
}))
"""


def compiled(tmp_path, **environment: str) -> dict[str, object]:
    dropped = ("TRITON_INTERPRET", "TRITON_OVERRIDE_ARCH", "DSA_KERNELS_EMULATE")
    inherited = {name: value for name, value in os.environ.items() if name not in dropped}
    variables = inherited | {"TRITON_CACHE_DIR": str(tmp_path / "cache")} | environment
    done = subprocess.run([sys.executable, "-c", COMPILED], env=variables, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_ptx_is_of_the_target_and_the_machine_code_of_the_gpu(tmp_path):
    found = compiled(tmp_path, DSA_KERNELS_EMULATE="sm80")
    assert (found["emulated"], found["target"], found["cubin"]) == (80, "sm_80", "sm_90")
    assert found["mma"]
    assert not found["wgmma"]
    assert str(found["cache"]).endswith("-ptx-sm80"), "Triton 3.6 would take another mode's kernel from the cache"


@pytest.mark.slow
def test_an_overridden_architecture_alone_emits_for_the_gpu(tmp_path):
    found = compiled(tmp_path, TRITON_OVERRIDE_ARCH="sm80")
    assert (found["emulated"], found["cubin"]) == (None, "sm_90")
    assert str(found["target"]).startswith("sm_90")


def refusal(code: str, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET",)}
    done = subprocess.run([sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True)
    assert done.returncode != 0
    return done.stderr.splitlines()[-1]


def test_a_target_that_is_not_known_is_refused_at_import():
    said = refusal("import dsa_kernels", DSA_KERNELS_EMULATE="ampere")
    assert "ValueError" in said
    assert "'ampere'" in said
    assert "sm80" in said


def test_two_targets_at_once_are_refused():
    said = refusal("import dsa_kernels", DSA_KERNELS_EMULATE="sm80", TRITON_OVERRIDE_ARCH="sm86")
    assert "unset one of them" in said


def test_another_hook_on_the_stages_is_not_replaced():
    code = (
        "import triton; triton.knobs.runtime.add_stages_inspection_hook = print\n"
        "from dsa_kernels.emulation import emulate; emulate('sm80')"
    )
    said = refusal(code)
    assert "EmulationError" in said
    assert "another hook" in said
