"""The whole command in environments that are broken for real: the right finding, an honest exit code, no traceback.

Each environment is a virtual environment of links to the installed packages, with some left out or replaced.
"""

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SITE_PACKAGES = Path(sysconfig.get_paths()["purelib"])
pytestmark = pytest.mark.slow

RAISES = "raise RuntimeError('this vllm is broken on purpose')\n"
SEGFAULTS = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
BABBLES = "import os, sys\nsys.stdout.write('{' * 100000)\nsys.stdout.flush()\nos._exit(0)\n"


def site(folder: Path, *, without: tuple[str, ...] = (), vllm: str | None = None) -> Path:
    """Link every installed package but `without`; replace vllm's __init__ by the given text. Returns site-packages."""
    venv.create(folder / "venv", with_pip=False)
    folder = next((folder / "venv").glob("lib/python*/site-packages"))
    for entry in SITE_PACKAGES.iterdir():
        if entry.suffix == ".pth" or any(entry.name.split("-")[0].lower() == name for name in without):
            continue
        if entry.name == "vllm" and vllm is not None:
            continue
        (folder / entry.name).symlink_to(entry)
    if vllm is not None:
        (folder / "vllm").mkdir()
        for entry in (SITE_PACKAGES / "vllm").iterdir():
            if entry.name != "__init__.py":
                (folder / "vllm" / entry.name).symlink_to(entry)
        (folder / "vllm" / "__init__.py").write_text(vllm)
    return folder


def check(folder: Path, **variables: str) -> dict:
    done = subprocess.run(
        [folder.parents[2] / "bin" / "python", "-m", "dsa_doctor", "check", "--target", "a100", "--format", "json"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "kernels")]),
            "DSA_DOCTOR_PLUGIN": "off",
            **variables,
        },
    )
    assert "Traceback" not in done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert done.returncode == verdict["exit_code"]
    return verdict


def states(verdict: dict) -> dict[str, str]:
    return {layer["layer"]: layer["state"] for layer in verdict["layers"]}


def finding(verdict: dict, finding_id: str) -> dict:
    return next(one for one in verdict["findings"] if one["id"] == finding_id)


def test_without_vllm(tmp_path: Path):
    verdict = check(site(tmp_path, without=("vllm",)))
    assert verdict["exit_code"] == 32
    assert [one["id"] for one in verdict["findings"]] == ["DSA908"]


def test_without_torch(tmp_path: Path):
    verdict = check(site(tmp_path, without=("torch",)))
    assert states(verdict) == {"csrc": "upstream", "attention": "unknown", "indexer": "unresolved"}
    assert verdict["exit_code"] == 16 + 32
    assert "torch is not installed" in finding(verdict, "DSA909")["summary"]
    assert "torch" in finding(verdict, "DSA204")["summary"]


@pytest.mark.parametrize(
    ("body", "said"),
    [(RAISES, "this vllm is broken on purpose"), (SEGFAULTS, "SIGSEGV"), (BABBLES, "no readable answer")],
)
def test_a_vllm_that_cannot_be_imported(tmp_path: Path, body: str, said: str):
    verdict = check(site(tmp_path, vllm=body))
    assert states(verdict)["attention"] == "unknown"
    assert states(verdict)["csrc"] == "upstream", "the files can still be read"
    assert verdict["exit_code"] & 32
    assert said in finding(verdict, "DSA204")["summary"] + " ".join(finding(verdict, "DSA204")["evidence"])


def test_a_truncated_extension(tmp_path: Path):
    folder = site(tmp_path, vllm=(SITE_PACKAGES / "vllm" / "__init__.py").read_text())
    extension = next((folder / "vllm").glob("_moe_C*.so"))
    original = extension.resolve()
    extension.unlink()
    with original.open("rb") as whole, extension.open("wb") as part:
        part.write(whole.read(original.stat().st_size // 2))
    verdict = check(folder)
    assert states(verdict)["csrc"] == "unresolved"
    assert verdict["exit_code"] & 4
    assert extension.name.split(".")[0] in json.dumps(finding(verdict, "DSA105"))


def test_without_a_home_that_can_be_written(tmp_path: Path):
    folder = site(tmp_path)
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    verdict = check(folder, HOME=str(home), XDG_CACHE_HOME=str(home / "cache"))
    assert states(verdict) == {"csrc": "upstream", "attention": "unresolved", "indexer": "unresolved"}
    assert list(home.iterdir()) == []
    shutil.rmtree(home)
