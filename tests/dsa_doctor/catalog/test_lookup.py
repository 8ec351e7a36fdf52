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
