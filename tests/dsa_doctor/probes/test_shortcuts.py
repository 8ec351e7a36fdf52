"""The shortcuts give the very answers that they shorten, under every Python that is at hand."""

import importlib.metadata as metadata
import inspect
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsa_doctor.probes.child import CHILDREN
from dsa_doctor.probes.environment import Environment

SCRIPT = """
import importlib.metadata as metadata, json, runpy, sys
sys.path += json.loads(sys.argv[2])
plain = metadata.packages_distributions()
shortcuts = runpy.run_path(sys.argv[1])
quick = shortcuts["_few_files"](metadata.packages_distributions)()
json.dump([plain, quick, list(plain) == list(quick)], sys.stdout)
"""


def distribution(
    folder: Path, name: str, record: str, files: tuple[str, ...] = (), top_level: str | None = None
) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\nA text.\nName: wrong\n\n")
    (info / "RECORD").write_text(record)
    if top_level is not None:
        (info / "top_level.txt").write_text(top_level)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    distribution(tmp_path, "plain", "plain/__init__.py,,\nplain/sub/a.py,,\nplain/data.txt,,\n", ("plain/sub/a.py",))
    distribution(tmp_path, "declared", "other/a.py,,\n", top_level="declared also\n")
    distribution(tmp_path, "gone", "gone/a.py,,\ngone/b.py,,\ngone/c.py,,\n")
    distribution(tmp_path, "half", "half/a.py,,\nhalf/b.py,,\n", ("half/b.py",))
    distribution(tmp_path, "single", "single.py,,\nother_single.py,,\nsingle.abi3.so,,\n", ("single.py",))
    distribution(tmp_path, "binary", "binary/_C.so,,\nbinary/data,,\n.hidden/x.py,,\n", ("binary/_C.so",))
    distribution(tmp_path, "quoted", '"with,comma/a.py",,\n"b/""q"".py",,\n', ("with,comma/a.py",))
    distribution(tmp_path, "outside", "../../bin/tool,,\n./dot/a.py,,\n./dot2/b.py,,\n/abs/x.py,,\n", ("dot/a.py",))
    distribution(tmp_path, "dotted", "a.b/c.py,,\nname./x.py,,\n", ("a.b/c.py", "name./x.py"))
    distribution(tmp_path, "empty", "")
    (tmp_path / "norecord-1.0.dist-info").mkdir()
    (tmp_path / "norecord-1.0.dist-info" / "METADATA").write_text("Name: norecord\n")
    for name, text in (("blank", "\nName: blank\n"), ("nameless", "Version: 1\n\nName: x\n"), ("void", "")):
        distribution(tmp_path, name, f"{name}/a.py,,\n")
        (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(text)
    (tmp_path / "egg-1.0.egg-info").mkdir()
    (tmp_path / "egg-1.0.egg-info" / "PKG-INFO").write_text("Name: egg\n")
    (tmp_path / "egg-1.0.egg-info" / "SOURCES.txt").write_text("egg/__init__.py\nsetup.py\n")
    return tmp_path


def interpreters() -> list[str]:
    found = [sys.executable, *(shutil.which(f"python3.{minor}") for minor in range(10, 15))]
    return list(dict.fromkeys(one for one in found if one is not None))


@pytest.mark.parametrize("python", interpreters())
@pytest.mark.parametrize("folders", ["odd", "installed"])
def test_which_distribution_a_package_belongs_to(python: str, folders: str, odd: Path) -> None:
    given = [str(odd)] if folders == "odd" else [os.fspath(one) for one in Environment.current().search_path]
    done = subprocess.run(
        [python, "-S", "-c", SCRIPT, str(CHILDREN / "shortcuts.py"), json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode != 0 and "command not found" in done.stderr:
        pytest.skip("a shim without its Python")
    assert done.returncode == 0, done.stderr
    plain, quick, same_order = json.loads(done.stdout)
    assert quick == plain
    assert same_order
    assert len(plain) > (1 if folders == "odd" else 10)  # Python 3.10 reads top_level.txt alone


def test_the_reader_is_put_back() -> None:
    before = metadata.Distribution._read_files_distinfo, metadata.PathDistribution.read_text
    runpy.run_path(str(CHILDREN / "shortcuts.py"))["_few_files"](metadata.packages_distributions)()
    assert (metadata.Distribution._read_files_distinfo, metadata.PathDistribution.read_text) == before


def test_torch_is_told_the_same_place() -> None:
    quick = runpy.run_path(str(CHILDREN / "shortcuts.py"))["_without_context"](inspect.getframeinfo)
    source = "def get_source(frame):\n    return getframeinfo(frame)\n"
    of_torch = {"__name__": "torch._library.utils", "getframeinfo": quick}
    of_others = {"__name__": "elsewhere", "getframeinfo": quick}
    exec(source, of_torch)
    exec(source, of_others)
    frame = sys._getframe()
    plain = inspect.getframeinfo(frame)
    told, other = of_torch["get_source"](frame), of_others["get_source"](frame)  # type: ignore[operator]
    assert told.filename == plain.filename
    assert abs(told.lineno - plain.lineno) <= 1
    assert told.code_context is None
    assert other.code_context is not None


def test_torch_is_told_the_same_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def original(*arguments: object) -> object:
        asked.append(arguments)
        return inspect.getmodule(*arguments)  # type: ignore[arg-type]

    quick = runpy.run_path(str(CHILDREN / "shortcuts.py"))["_by_its_globals"](original)
    source = "def _register_fake(frame):\n    return getmodule(frame)\n"
    of_torch = {"__name__": "torch.library", "getmodule": quick}
    of_others = {"__name__": "elsewhere", "getmodule": quick}
    exec(source, of_torch)
    exec(source, of_others)
    frame = sys._getframe()
    assert of_torch["_register_fake"](frame) is sys.modules[__name__] is inspect.getmodule(frame)  # type: ignore[operator]
    assert not asked, "nothing is searched for"
    assert of_others["_register_fake"](frame) is sys.modules[__name__]  # type: ignore[operator]
    assert asked == [(frame, None)]
    # Code that no module holds: the search has the last word.
    for names in ({"__name__": __name__}, {"__name__": "nowhere"}, {"__name__": "__main__"}, {}):
        asked.clear()
        alone = dict(names)
        exec("import sys\nframe = sys._getframe()", alone)
        of_torch["_register_fake"](alone["frame"])  # type: ignore[operator]
        assert asked == [(alone["frame"], None)]


def test_torch_finds_the_modules_of_its_ops_as_before() -> None:
    """The whole of torch, imported with the shortcuts: what it took for each op's module is what Python would say."""
    script = """
import inspect, runpy, sys
plain, told, searched = inspect.getmodule, [], []
def search(*arguments):
    searched.append(arguments)
    return plain(*arguments)
quick = runpy.run_path(sys.argv[1])["_by_its_globals"](search)
names = {"__name__": "torch.library", "quick": quick, "plain": plain, "told": told}
exec('''
def _register_fake(*arguments):
    answer = quick(*arguments)
    told.append((answer, plain(*arguments)))
    return answer
''', names)
def getmodule(*arguments):
    by_torch = sys._getframe(1).f_globals.get("__name__") == "torch.library"
    return names["_register_fake"](*arguments) if by_torch else plain(*arguments)
inspect.getmodule = getmodule
import torch._inductor.lowering
assert all(ours is theirs for ours, theirs in told), [one for one in told if one[0] is not one[1]][:3]
print(len(told), len(searched))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(CHILDREN / "shortcuts.py")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told, searched = map(int, done.stdout.split())
    assert told > 10
    assert searched < told / 2
