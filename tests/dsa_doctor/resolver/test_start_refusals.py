"""What a server with the plugin would be refused for is told before the start, in the words of the server."""

from types import SimpleNamespace

import pytest

from dsa_doctor.catalog.models import find_model
from dsa_doctor.inputs import Options, request_for
from dsa_doctor.plugin import serving
from dsa_doctor.resolver import Request, Target
from dsa_doctor.resolver.start_refusals import start_refusals
from tests.dsa_doctor.plugin.tiny_models import tiny_pooled_config

FLASH, V32, V4 = (find_model(name).geometry() for name in ("GLM-5.3-Flash", "DeepSeek-V3.2", "DeepSeek-V4-Flash"))
A100 = Target(name="NVIDIA A100 80GB", capability="8.0", source="--target", count=8)


@pytest.mark.parametrize(
    ("options", "asked", "remedy"),
    [
        ({"pipeline_parallel_size": 2}, "--pipeline-parallel-size 2", "--pipeline-parallel-size 1"),
        ({"decode_context_parallel_size": 2}, "--decode-context-parallel-size 2", "--decode-context-parallel-size 1"),
        (
            {"prefill_context_parallel_size": 4},
            "--prefill-context-parallel-size 4",
            "--prefill-context-parallel-size 1",
        ),
        ({"dtype": "half"}, "--dtype float16", "--dtype bfloat16"),
    ],
)
def test_what_glm_5_3_flash_is_refused(options, asked, remedy):
    (found,) = start_refusals(FLASH, request_for(FLASH, A100, Options(**options)))
    assert found.asked == asked
    assert found.remedy == remedy


@pytest.mark.parametrize(("ranks", "accepted"), [(1, None), (8, None), (16, "8, 4, 2, 1"), (64, "8, 4, 2, 1")])
def test_the_groups_of_deepseek_v4_are_shared_out_or_it_is_told(ranks, accepted):
    found = start_refusals(V4, Request(tensor_parallel_size=ranks))
    assert [one.accepted for one in found] == ([accepted] if accepted else [])
    assert [one.remedy for one in found] == (["--tensor-parallel-size 8"] if accepted else [])
    assert [one.asked for one in start_refusals(V4, Request(dtype="float16"))[:1]] == ["--dtype float16"]


@pytest.mark.parametrize("options", [{"pipeline_parallel_size": 2}, {"dtype": "float16"}, {"drafts": 3}])
def test_other_families_are_served_with_them(options):
    assert start_refusals(V32, Request(**options), graphs="0", keeps_drafts=False) == ()


@pytest.mark.parametrize(
    ("drafts", "keeps", "count"), [(0, False, 0), (1, False, 0), (2, False, 1), (2, None, 0), (2, True, 0)]
)
def test_drafts_are_refused_where_their_rejection_spoils_the_open_pool(drafts, keeps, count):
    found = start_refusals(FLASH, Request(drafts=drafts), keeps_drafts=keeps)
    assert [one.asked for one in found] == ["num_speculative_tokens 2"] * count


@pytest.mark.parametrize(
    ("graphs", "eager", "count"), [(None, False, 0), ("1", False, 0), ("0", False, 1), ("0", True, 0), ("0", None, 0)]
)
def test_whole_graphs_are_refused_where_there_are_graphs(graphs, eager, count):
    assert len(start_refusals(FLASH, Request(enforce_eager=eager), graphs=graphs)) == count


def test_the_server_is_refused_in_the_same_words(monkeypatch):
    monkeypatch.setattr(serving, "vllm_root", lambda: None)
    monkeypatch.setattr("dsa_doctor.compat.families.glm5_next.open_pools_keep_drafts", lambda tree: False)
    monkeypatch.setattr("dsa_doctor.compat.sources.SourceTree", lambda root: None)
    config = tiny_pooled_config(layer_types=[*["linear_attention"] * 3, "indexed_attention"])
    server = SimpleNamespace(
        model_config=SimpleNamespace(
            hf_config=SimpleNamespace(**config, to_dict=lambda: config),
            hf_text_config=SimpleNamespace(**config["text_config"]),
            served_model_name=None,
            model="tiny",
            dtype="torch.float16",
            enforce_eager=False,
        ),
        cache_config=SimpleNamespace(cache_dtype="auto"),
        attention_config=SimpleNamespace(backend=None),
        parallel_config=SimpleNamespace(pipeline_parallel_size=2, decode_context_parallel_size=2),
        num_speculative_tokens=2,
    )
    request = Request(
        pipeline_parallel_size=2, decode_context_parallel_size=2, dtype="float16", drafts=2, enforce_eager=False
    )
    told = start_refusals(FLASH, request, keeps_drafts=False)
    assert len(told) == 4
    assert serving.refusals(server) == [str(one) for one in told]
