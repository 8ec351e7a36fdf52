"""Environments other than the running one, made of real interpreters, real virtual environments and real wheels."""

import platform
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from dsa_doctor.probes import software
from dsa_doctor.probes.elsewhere import UnusableEnvironmentError, environment_of_python, environment_of_wheel
from dsa_doctor.probes.environment import Environment

WHEEL = "vllm-9.8.7-cp38-abi3-manylinux_2_28_x86_64.whl"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A real virtual environment that holds nothing but one distribution's metadata."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    add_distribution(site, "vllm", "1.2.3")
    return folder, site


def add_distribution(site: Path, name: str, version: str) -> None:
    (site / name).mkdir(parents=True)
    (site / name / "__init__.py").write_text(f"__version__ = {version!r}\n")
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def packages(environment: Environment) -> dict[str, str]:
    found = software.probe(environment).value
    assert found is not None
    return found.packages


def test_the_running_interpreter_is_the_current_environment():
    found = environment_of_python(Path(sys.executable))
    assert found.python == Path(sys.executable)
    assert found.python_version == platform.python_version()
    assert packages(found) == packages(Environment.current())


def test_another_interpreter_sees_its_own_packages(bare):
    folder, site = bare
    found = environment_of_python(folder / "bin" / "python")
    assert site in found.search_path
    assert packages(found) == {"vllm": "1.2.3"}
    shown = subprocess.run([found.python, "-c", "import vllm; print(vllm.__version__)"], capture_output=True, text=True)
    assert shown.stdout.strip() == "1.2.3", shown.stderr


def test_another_interpreter_is_started_once_for_its_folders_and_its_version(tmp_path, fake_tool):
    starts = tmp_path / "starts"
    python = fake_tool("other-python", f'echo x >> {starts}\nexec {sys.executable} "$@"')
    found = environment_of_python(python)
    assert software.probe(found).value.python == platform.python_version()
    assert starts.read_text() == "x\n"
    assert software.probe(environment_of_python(python, execute=True).files_alone()).status == "ok"


@pytest.mark.parametrize(("told", "version"), [('"version": "hello"', None), ('"version": 3', None), ('"x": 1', None)])
def test_an_interpreter_that_tells_no_version_has_none(fake_tool, told, version):
    answer = f'echo \'{{"search_path": ["/"], {told}}}\' > /proc/self/fd/$DSA_DOCTOR_ANSWER_FD'
    found = environment_of_python(fake_tool("odd-python", answer))
    assert (found.search_path, found.python_version) == ((Path("/"),), version)
    assert software.probe(found).value.python == "unknown"


def test_a_virtual_environments_folder_and_its_site_packages_lead_to_its_interpreter(bare):
    folder, site = bare
    for path in (folder, site):
        found = environment_of_python(path)
        assert found.python == folder / "bin" / "python"
        assert packages(found) == {"vllm": "1.2.3"}


def test_a_site_packages_folder_of_an_image_is_read_without_an_interpreter(tmp_path):
    site = tmp_path / "usr" / "lib" / "python3" / "dist-packages"
    add_distribution(site, "vllm", "4.5.6")
    found = environment_of_python(site)
    assert found.python is None
    assert found.search_path == (site,)
    assert packages(found) == {"vllm": "4.5.6"}


@pytest.mark.parametrize("what", ["missing", "folder", "text", "false", "silent"])
def test_what_is_no_interpreter_is_refused_by_name(tmp_path, what):
    path = tmp_path / "python"
    if what == "folder":
        path.mkdir()
    elif what == "text":
        path.write_text("hello")
    elif what in {"false", "silent"}:
        path.write_text("#!/bin/sh\nexit 3\n" if what == "false" else "#!/bin/sh\n")
        path.chmod(0o755)
    with pytest.raises(UnusableEnvironmentError, match=r"^--python .*python: "):
        environment_of_python(path)


def write_wheel(path: Path, extra: dict[str, bytes] | None = None) -> Path:
    members = {
        "vllm/__init__.py": b"",
        "vllm/version.py": b"__version__ = '9.8.7'\n",
        "vllm/_C.abi3.so": b"\x7fELF",
        "vllm/configs/a.json": b"{}",
        "vllm/include/big.hpp": b"x" * 100,
        "vllm/vllm-rs": b"x" * 100,
        "vllm-9.8.7.dist-info/METADATA": b"Metadata-Version: 2.1\nName: vllm\nVersion: 9.8.7\n",
        **(extra or {}),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_wheel_stands_before_the_running_environment_and_is_removed_afterwards(tmp_path):
    wheel = write_wheel(tmp_path / WHEEL)
    with environment_of_wheel(wheel) as found:
        unpacked = found.search_path[0]
        assert packages(found)["vllm"] == "9.8.7"
        assert packages(found)["torch"] == packages(Environment.current())["torch"]
        names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
        assert names == {
            "vllm/__init__.py",
            "vllm/version.py",
            "vllm/_C.abi3.so",
            "vllm/configs/a.json",
            "vllm-9.8.7.dist-info/METADATA",
        }
        assert found.import_order() == [str(unpacked), *Environment.current().import_order()]
    assert not unpacked.exists()


def test_a_wheel_is_removed_when_judging_it_fails(tmp_path):
    wheel = write_wheel(tmp_path / WHEEL)
    seen = []

    def judge():
        with environment_of_wheel(wheel) as found:
            seen.append(found.search_path[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        judge()
    assert not seen[0].exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nowhere.whl", None, "no such file"),
        ("vllm.whl", b"", "not the name of a wheel"),
        ("torch-2.13.0-cp311-cp311-linux_x86_64.whl", b"", "a wheel of torch"),
        (WHEEL, b"", "cannot be unpacked"),
        (WHEEL, b"PK\x03\x04" + b"\0" * 64, "cannot be unpacked"),
    ],
)
def test_what_is_no_wheel_of_vllm_is_refused_by_name(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnusableEnvironmentError, match=rf"^--wheel .*{said}"), environment_of_wheel(path):
        pass


def test_a_truncated_wheel_is_refused(tmp_path):
    whole = write_wheel(tmp_path / WHEEL, {"vllm/_moe_C.abi3.so": bytes(range(256)) * 4096})
    data = bytearray(whole.read_bytes())
    middle = data.index(b"vllm/_moe_C.abi3.so") + 60
    data[middle : middle + 40] = b"\xff" * 40
    whole.write_bytes(data)
    with pytest.raises(UnusableEnvironmentError, match="cannot be unpacked"), environment_of_wheel(whole):
        pass


@pytest.mark.parametrize("name", ["../outside.py", "/tmp/outside.py", "vllm/../../outside.py"])
def test_a_wheel_that_leads_out_of_itself_is_refused(tmp_path, name):
    wheel = write_wheel(tmp_path / WHEEL, {name: b"x"})
    with pytest.raises(UnusableEnvironmentError, match="lead out of it"), environment_of_wheel(wheel):
        pass


def test_a_wheel_without_vllm_is_refused(tmp_path):
    path = tmp_path / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/__init__.py", b"")
    with pytest.raises(UnusableEnvironmentError, match="holds no folder vllm"), environment_of_wheel(path):
        pass


def test_files_alone_start_no_interpreter(bare, tmp_path):
    """An interpreter that leaves a trace is found beside its packages, and never started."""
    folder = tmp_path / "venv"
    trace = tmp_path / "trace"
    (site := folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    add_distribution(site, "vllm", "1.2.3")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f"#!/bin/sh\ntouch {trace}\nexit 3\n")
    python.chmod(0o755)
    for path in (python, folder, site):
        found = environment_of_python(path, execute=False)
        assert (found.python, found.search_path) == (None, (site,))
        assert "--no-execute" in found.without_python
        assert packages(found) == {"vllm": "1.2.3"}
    assert not trace.exists()
    with pytest.raises(UnusableEnvironmentError, match="not a Python interpreter that works here"):
        environment_of_python(python)
    assert trace.exists(), "the trace is left where it is started"


def test_an_interpreter_without_packages_beside_it_is_refused(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("")
    with pytest.raises(UnusableEnvironmentError, match="no site-packages folder lies beside it"):
        environment_of_python(tmp_path / "bin" / "python", execute=False)


def test_a_wheels_files_alone(tmp_path):
    with environment_of_wheel(write_wheel(tmp_path / WHEEL), execute=False) as found:
        assert found.python is None
        assert packages(found)["vllm"] == "9.8.7"
