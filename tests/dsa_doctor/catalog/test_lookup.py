import pytest

from dsa_doctor.catalog.lookup import UnknownModelError, find_geometry


def test_an_alias_comes_from_the_catalog():
    assert find_geometry("glm-5").hub_id == "zai-org/GLM-5"


def test_a_typo_is_answered_with_the_near_names():
    with pytest.raises(UnknownModelError, match="Did you mean GLM-5-FP8"):
        find_geometry("GLM-5-PF8")


def test_a_missing_file_is_not_asked_of_the_hub(monkeypatch):
    monkeypatch.setattr("dsa_doctor.catalog.lookup._from_hub", lambda _: pytest.fail("asked the Hub"))
    with pytest.raises(UnknownModelError, match="neither a known model nor an existing path"):
        find_geometry("./models/config.json")


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
