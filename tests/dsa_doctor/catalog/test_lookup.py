import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from dsa_doctor.catalog.hub import HubError
from dsa_doctor.catalog.lookup import MistypedModelError, UnknownModelError, check_spelling, find_geometry
from dsa_doctor.catalog.models import KNOWN_MODELS, find_model
from dsa_doctor.cli.app import app


def test_an_alias_comes_from_the_catalog():
    assert find_geometry("glm-5").hub_id == "zai-org/GLM-5"


def test_a_typo_is_answered_with_the_near_names():
    with pytest.raises(UnknownModelError, match="Did you mean GLM-5-FP8 or"):
        find_geometry("GLM-5-PF8")


@pytest.mark.parametrize("text", ["GLM-5-PF8", "nonsense", "./models/config.json", "https://example.com/m", "a/b/c"])
def test_what_names_no_model_is_told_from_its_spelling(text):
    with pytest.raises(MistypedModelError):
        check_spelling(text)


@pytest.mark.parametrize("text", ["glm-5-fp8", "zai-org/GLM-5-FP8", "somebody/some-model", "."])
def test_what_may_name_a_model_passes(text, monkeypatch):
    monkeypatch.setattr("dsa_doctor.catalog.lookup._from_hub", lambda _: pytest.fail("asked the Hub"))
    check_spelling(text)


def test_the_hub_is_asked_once_and_the_answer_is_a_sentence(monkeypatch, capfd):
    """A port on which nobody listens: no retries, no lines of a library."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("dsa_doctor.catalog.hub.SECONDS", 2)
    attempts = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_url", lambda *_: attempts.append(1) or "http://127.0.0.1:9/zai/GLM-5-FP8/config.json"
    )
    with pytest.raises(UnknownModelError) as raised:
        find_geometry("zai/GLM-5-PF8")
    assert attempts == [1]
    assert "127.0.0.1:9 cannot be reached" in str(raised.value)
    assert "Did you mean GLM-5-FP8" in str(raised.value)
    assert "Offline, give" in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_not_asked_of_the_hub(monkeypatch):
    monkeypatch.setattr("dsa_doctor.catalog.lookup._from_hub", lambda _: pytest.fail("asked the Hub"))
    with pytest.raises(UnknownModelError, match="no such file or folder"):
        find_geometry("./models/config.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty. Accepted: a name that `dsa-doctor models` lists"),
        ("  ", "is empty"),
        ("/nowhere/model", "no such file or folder. Give a folder with a config.json"),
        ("~/nowhere", "no such file or folder"),
        ("nothing-like-it", "Accepted: a name that `dsa-doctor models` lists"),
        ("GLM-5-FP", "Did you mean GLM-5-FP8"),
    ],
)
def test_what_names_no_model_is_told_in_its_own_terms(text, said):
    with pytest.raises(MistypedModelError) as raised:
        check_spelling(text)
    assert said in str(raised.value)
    assert len(str(raised.value)) < 250


def test_a_broken_config_names_model_and_file(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnknownModelError, match=r"MODEL .*config\.json: not valid JSON"):
        find_geometry(str(tmp_path))


def test_a_hub_id_without_network_says_so(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnknownModelError, match="could not be read from the Hub"):
        find_geometry("somebody/some-model")


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/zai-org/GLM-5-FP8",
        "https://huggingface.co/zai-org/GLM-5-FP8/",
        "http://www.huggingface.co/zai-org/GLM-5-FP8/tree/main?x=1",
        "https://huggingface.co/zai-org/GLM-5-FP8/resolve/main/config.json",
        "hf.co/zai-org/GLM-5-FP8",
        "https://hf-mirror.com/zai-org/GLM-5-FP8#files",
        "https://modelscope.cn/models/zai-org/GLM-5-FP8/summary",
    ],
)
def test_a_page_on_the_hub_is_answered_with_the_id(url):
    with pytest.raises(UnknownModelError, match=r"is a URL.*Give its id: zai-org/GLM-5-FP8\.$"):
        find_geometry(url)


@pytest.mark.parametrize("url", ["s3://bucket/model", "https://example.com/model.tar", "file:///models/glm"])
def test_another_url_is_answered_with_what_is_accepted(url):
    with pytest.raises(UnknownModelError, match=r"is a URL.*Give a Hub id"):
        find_geometry(url)


@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\0", "\u2028", "\u202e", "\udcff"])
def test_a_name_that_would_break_what_repeats_it_is_refused(tmp_path, monkeypatch, character):
    monkeypatch.setattr("dsa_doctor.catalog.lookup._from_hub", lambda _: pytest.fail("asked the Hub"))
    for text in (f"{tmp_path}/a{character}b", f"org/a{character}b"):
        with pytest.raises(UnknownModelError, match=rf"character \d+ is U\+{ord(character):04X}"):
            find_geometry(text)


class _Hub:
    """A Hub that holds a few small files and lists a few large ones."""

    def __init__(self, monkeypatch, files, listed):
        self.files, self.listed = files, listed
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
        monkeypatch.setattr("dsa_doctor.catalog.lookup.fetch", self.fetch)
        monkeypatch.setattr("dsa_doctor.catalog.hub.fetch", self.fetch)
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", self.info)

    def fetch(self, hub_id, name, folder):
        if name not in self.files:
            raise HubError("it has no such file")
        path = folder / name
        path.write_text(json.dumps(self.files[name]))
        return path

    def info(self, hub_id, **_):
        if self.listed is None:
            raise TimeoutError
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in self.listed.items()]
        return SimpleNamespace(siblings=siblings)


SHARDS = {"model-1.safetensors": 400, "model-2.safetensors": 50, "README.md": 7, "original/x.safetensors": 9}


@pytest.mark.parametrize(
    ("listed", "total"),
    [(SHARDS, 450), ({"README.md": 7}, None), ({"a.safetensors": None}, None), (None, None)],
)
def test_the_hub_says_how_large_the_weights_are_where_it_is_asked_anyway(monkeypatch, listed, total):
    pytest.importorskip("huggingface_hub")
    _Hub(monkeypatch, {"config.json": find_model("GLM-5").config}, listed)
    assert find_geometry("somebody/some-model").published_bytes == total


def test_a_quantisation_that_lies_in_a_file_of_its_own_on_the_hub_is_read(monkeypatch):
    pytest.importorskip("huggingface_hub")
    settings = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    files = {"config.json": find_model("GLM-5").config, "hf_quant_config.json": settings}
    _Hub(monkeypatch, files, None)
    assert find_geometry("somebody/some-model").stored.method == "modelopt"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("DeepSeek-V4-Flsh", "DeepSeek-V4-Flash"),
        ("deepseek_v4.1", "DeepSeek-V4.1-Flash"),
        ("glm-5.3-flsh", "GLM-5.3-Flash"),
        ("GLM 5.2 AWQ", "GLM-5.2-AWQ-INT4"),
    ],
)
def test_what_was_meant_is_said_first(typed, meant):
    with pytest.raises(UnknownModelError, match=rf"Did you mean [^?]*{meant}"):
        find_geometry(typed)


def test_a_hub_id_is_the_organisation_and_the_name():
    """`dsa-doctor models` prints the two in columns of their own."""
    assert all(known.hub_id.partition("/")[2] == known.name for known in KNOWN_MODELS)


def test_the_list_of_models_cuts_no_name_at_eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    printed = CliRunner().invoke(app, ["models"]).stdout
    assert all(f"{known.name} " in printed for known in KNOWN_MODELS)
    assert "…" not in printed
