from pathlib import Path

from dsa_doctor.probes.environment import Environment


def test_paths_are_shown_relative_to_the_search_path(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    environment = Environment(python=None, search_path=(tmp_path, inner))
    assert environment.relative(tmp_path / "vllm" / "a.so") == "vllm/a.so"
    assert environment.relative(Path("/home/someone/a.so")) == "a.so"
    assert environment.shorten(f"in {inner}/x.py and {tmp_path}/y.py") == "in x.py and y.py"


def test_an_environment_inside_a_folder_of_the_search_path_counts_for_itself(tmp_path: Path) -> None:
    packages = tmp_path / ".venv" / "lib" / "site-packages"
    environment = Environment(python=None, search_path=(tmp_path, packages))
    assert environment.relative(packages / "vllm" / "_C.abi3.so") == "vllm/_C.abi3.so"


def test_packages_are_found_in_import_order(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    (second / "a" / "b").mkdir(parents=True)
    environment = Environment(python=None, search_path=(first, second))
    assert environment.package_dir("a.b") == second / "a" / "b"
    (first / "a" / "b").mkdir(parents=True)
    assert environment.package_dir("a.b") == first / "a" / "b"
    assert environment.package_dir("a.c") is None
