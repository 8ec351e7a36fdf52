"""Families on the sources of every release: what they pick, what they need, and vLLM's own function beside it."""

import ast
from types import SimpleNamespace

import pytest

from dsa_doctor.compat.families import FAMILIES, deepseek_v4, family_of, glm5_next
from dsa_doctor.compat.model_classes import model_classes, registered
from dsa_doctor.compat.own_attention import family_needs, own_attention
from dsa_doctor.compat.sources import SourceTree
from tests.releases import RELEASES, release_folder

V4, V41 = family_of("DeepseekV4ForCausalLM"), family_of("DeepseekV41ForCausalLM")
SINCE = {"deepseek_v4": "0.26.0", "mla": "0.26.0", "glm5_next": "0.30.0", "deepseek_v41": "0.30.0"}


def tree_of(version):
    return SourceTree(release_folder(version))


def test_every_architecture_has_one_family():
    named = [one for family in FAMILIES for one in (*family.architectures, *family.drafts)]
    assert len(named) == len(set(named))
    assert family_of("FooForCausalLM") is None
    assert family_of("FooForCausalLM", "deepseek_v41") is V41


@pytest.mark.parametrize("version", RELEASES)
def test_the_registry_has_each_family_since_its_release(version):
    known, classes = registered(tree_of(version)), model_classes(tree_of(version))
    assert len(known) > 300
    assert known["LlamaForCausalLM"] == "vllm.model_executor.models.llama:LlamaForCausalLM"
    for family in FAMILIES:
        there = any(one in known for one in family.architectures)
        assert there == (RELEASES.index(version) >= RELEASES.index(SINCE[family.key])), family.key
        assert {one for one in (*family.architectures, *family.drafts) if one in known} <= set(classes)
    assert ("DSparkV41DraftModel" in classes) == (RELEASES.index(version) >= 2)


# Reviewed by hand in the sources of each release.
PICKS = {
    "8.0": ("FLASHMLA_SPARSE_DSV4", False),
    "8.9": ("FLASHMLA_SPARSE_DSV4", False),
    "9.0": ("FLASHMLA_SPARSE_DSV4", True),
    "10.0": ("FLASHMLA_SPARSE_DSV4", True),
    "11.0": ("FLASHMLA_SPARSE_DSV4", False),
    "12.0": ("FLASHINFER_MLA_SPARSE_DSV4", True),
    "12.1": ("FLASHINFER_MLA_SPARSE_DSV4", True),
}


@pytest.mark.parametrize("version", RELEASES)
def test_v4_picks_its_class(version):
    own = own_attention(tree_of(version), V4)
    default = {one.capability: one.candidates for one in own.picks if one.asked is None}
    assert {at: [(one.backend, one.supported) for one in default[at]] for at in PICKS} == {
        at: [pick] for at, pick in PICKS.items()
    }
    assert "bfloat16" not in default["9.0"][0].kv_cache_dtypes
    assert {"auto", "fp8", "fp8_ds_mla"} <= set(default["9.0"][0].kv_cache_dtypes)
    assert "bfloat16" not in default["12.0"][0].kv_cache_dtypes
    refused = next(one for one in own.picks if (one.capability, one.asked) == ("9.0", "FLASHINFER_MLA_SPARSE"))
    assert (refused.candidates, "is not a DeepSeek V4 attention backend" in refused.refused) == ((), True)


def test_v41_leaves_open_what_more_than_the_capability_decides():
    own = own_attention(tree_of("0.33.0"), V41)
    default = {one.capability: [(c.backend, c.supported) for c in one.candidates] for one in own.picks if not one.asked}
    assert default["9.0"] == [("FLASHMLA_MEGA_ATTN_DSV41", False), ("FLASHMLA_SPARSE_DSV41", True)]
    assert default["10.0"] == [("FLASHMLA_MEGA_ATTN_DSV41", True), ("FLASHMLA_SPARSE_DSV41", True)]
    assert default["12.0"] == [("FLASHINFER_MLA_SPARSE_DSV41", True)]
    assert own_attention(tree_of("0.28.0"), V41) is None


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("family", [V4, V41], ids=["v4", "v41"])
def test_vllm_s_own_function_picks_the_same(version, family):
    """The oracle: vLLM's function itself, executed with its platform and classes replaced by names."""
    own = own_attention(tree_of(version), family)
    if own is None:
        pytest.skip("this release has no such family")
    module, name = family.picker.split(":")
    source = ast.unparse(tree_of(version).block(module, name)).replace("VllmConfig", "object")
    for pick in own.picks:
        major, minor = map(int, pick.capability.split("."))
        platform = SimpleNamespace(get_device_capability=lambda at=(major, minor): SimpleNamespace(major=at[0]))
        known = {}

        class Names(dict):
            def __missing__(self, key):
                if key.startswith("Deepseek"):
                    return SimpleNamespace(key=key, is_available_for=lambda config: False)
                raise KeyError(key)

        class Enum:
            def __getattr__(self, key, known=known):
                return known.setdefault(key, SimpleNamespace(name=key))

        enum = Enum()
        asked = getattr(enum, pick.asked) if pick.asked else None
        config = SimpleNamespace(
            attention_config=SimpleNamespace(backend=asked),
            parallel_config=SimpleNamespace(prefill_context_parallel_size=1),
        )
        scope = Names(current_platform=platform, AttentionBackendEnum=enum, type=type, object=object)
        scope.update({"ValueError": ValueError, "NotImplementedError": NotImplementedError})
        body = source[source.index(":\n") + 2 :]
        exec("def picked(vllm_config):\n" + body, scope)
        try:
            result = eval("picked(config)", scope, {"config": config}).key
        except ValueError:
            result = None
        named = [one.attention_class.rpartition(".")[2] for one in pick.candidates]
        assert result is None if not named else result in named, pick


@pytest.mark.parametrize("version", RELEASES)
def test_needs_are_found_in_every_release(version):
    tree = tree_of(version)
    v4 = [(one.layer, one.needs, one.place.rpartition(".")[2]) for one in family_needs(tree, V4)]
    assert v4 == [
        ("attention", "cuda_compiler", "DeepseekV4DecoderLayer"),
        ("attention", "deep_gemm", "mhc_pre_broadcast_tilelang"),
        ("indexer", "e4m3", "fused_indexer_q_rope_quant"),
        ("attention", "e4m3", "DeepseekCompressor"),
        ("indexer", "e4m3", "fused_compress_quant_cache"),
        ("attention", "backend", "_select_dsv4_attn_cls"),
        ("attention", "e4m3", "deep_gemm_fp8_o_proj"),
    ]
    if version == RELEASES[-1]:
        v41 = [one.place.rpartition(".")[2] for one in family_needs(tree, V41)]
        assert v41[:2] == ["model", "_select_dsv4_attn_cls"]
        assert {"engram", "indexer_k_store"} <= set(v41)


@pytest.mark.parametrize("version", RELEASES)
def test_what_is_wrong_with_pooled_keys_is_read_from_the_sources(version):
    tree = SourceTree(release_folder(version))
    expected = {"0.26.0": None, "0.28.0": None, "0.30.0": ("chunks", "distance")}.get(version, ("chunks",))
    assert glm5_next.pool_faults(tree) == expected
    assert glm5_next.open_pools_keep_drafts(tree) == (None if expected is None else version != "0.30.0")


@pytest.mark.parametrize("version", RELEASES)
def test_how_a_sliding_window_is_rotated_is_read_from_the_sources(version):
    expected = version in {"0.26.0", "0.28.0"}
    assert deepseek_v4.windows_by_yarn(SourceTree(release_folder(version))) is expected
