from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from dsa_doctor.probes import software
from dsa_doctor.probes.environment import Environment

MakeSite = Callable[..., Environment]


def test_installed_packages_as_importlib_metadata_knows_them(vllm_dir: Path) -> None:
    observation = software.probe(Environment.current())
    assert observation.value is not None
    for name in ("vllm", "torch", "triton", "transformers", "dsa-doctor"):
        assert observation.value.packages[name] == metadata.version(name)
    expected = {
        (entry.group, entry.name, entry.value)
        for group in ("vllm.general_plugins", "vllm.platform_plugins")
        for entry in metadata.entry_points(group=group)
    }
    assert {(entry.group, entry.name, entry.value) for entry in observation.value.vllm_plugins} == expected
    assert expected


def dist(name: str, version: str, **files: str) -> dict[str, bytes | str | Path]:
    folder = f"{name.replace('-', '_')}-{version}.dist-info"
    return {f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"} | {
        f"{folder}/{file.replace('_txt', '.txt')}": text for file, text in files.items()
    }


def test_first_on_the_search_path_wins_and_plugins_name_their_distribution(site: MakeSite) -> None:
    plugin = "[vllm.general_plugins]\nmine = my.module:register\n[console_scripts]\nx = y:z\n"
    observation = software.probe(site(dist("torch", "1.2.3") | dist("My.Plugin", "1.0", entry_points_txt=plugin)))
    assert observation.value is not None
    assert observation.value.packages["torch"] == "1.2.3"
    mine = next(entry for entry in observation.value.vllm_plugins if entry.name == "mine")
    assert (mine.group, mine.value, mine.distribution) == ("vllm.general_plugins", "my.module:register", "my-plugin")


def test_damaged_metadata_falls_back_on_the_folder_name(site: MakeSite) -> None:
    observation = software.probe(
        site(
            {
                "torch-9.9.9.dist-info/METADATA": b"\xff\xfe\x00garbage",
                "vllm-8.8.8.dist-info/RECORD": "",
                "plugin-1.0.dist-info/entry_points.txt": "this is [not an ini file\n===\n",
                "nonsense.dist-info/METADATA": b"\x00",
                "triton-1.dist-info": "a file where a folder should be",
            }
        )
    )
    assert observation.value is not None
    assert (observation.value.packages["torch"], observation.value.packages["vllm"]) == ("9.9.9", "8.8.8")
    assert any("damaged metadata of torch" in line for line in observation.evidence)


@pytest.mark.parametrize(
    ("source", "status", "told"),
    [
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "ok", "13.0"),
        ("cuda = '12.4'\n", "ok", "12.4"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "absent", "torch is a CPU build"),
        ("cuda = None\nhip = '6.2'\n", "absent", "torch is a ROCm build"),
        ("raise SystemExit\n", "unknown", "does not say"),
        ("cuda = (\n", "unknown", "SyntaxError"),
    ],
)
def test_cuda_of_torch_is_read_without_running_it(site: MakeSite, source: str, status: str, told: str) -> None:
    observation = software.probe(site({"torch/version.py": source}))
    assert observation.value is not None
    cuda = observation.value.torch_cuda
    assert cuda.status == status
    assert told in (cuda.value or cuda.cause or "")


def test_nothing_installed(tmp_path: Path) -> None:
    observation = software.probe(Environment(python=None, search_path=(tmp_path,)))
    assert observation.value is not None
    assert (observation.value.packages, observation.value.vllm_plugins) == ({}, ())
    assert observation.value.python == "unknown"
    assert observation.value.torch_cuda.cause == "torch is not installed"
