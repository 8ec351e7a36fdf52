"""What verdicts count for under a policy: exit codes, suppressions, allowed states, strict."""

import sys
from datetime import date, timedelta
from itertools import combinations, product

import pytest

from dsa_doctor.policy import Policy, PolicyError, Suppression, load_policy
from dsa_doctor.policy.downgrade import REASON_TO_FILL_IN
from dsa_doctor.policy.schema import GATED_LAYERS, LAYER_NAMES
from dsa_doctor.verdict.schema import EXIT_BITS
from tests.dsa_doctor import facts_library as library
from tests.dsa_doctor.reports import TODAY, facts_for, report, verdict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODELS = ("GLM-5-FP8", "DeepSeek-V3.2", "GLM-5.3-Flash", "GLM-5.1-NVFP4")
TARGETS = ("a100", "4090", "h100", "5090")


def suppress(finding_id, *, expires=TODAY, **limits):
    return Suppression(id=finding_id, reason="known", expires=expires, **limits)


def real_verdicts():
    found = [verdict(model, target, plugin=plugin) for model, target, plugin in product(MODELS, TARGETS, (False, True))]
    unknown = facts_for("GLM-5-FP8", "a100").model_copy(
        update={"selector": library.Observation[library.Selector].unknown("the probe broke")}
    )
    broken = facts_for("GLM-5-FP8", "h100").model_copy(
        update={"csrc": library.Observation[library.Csrc].unknown("unreadable")}
    )
    none = library.facts().model_copy(
        update={"software": library.Observation[library.Software].ok(library.software(without=("vllm",)))}
    )
    return [*found, verdict(facts=unknown), verdict(target="h100", facts=broken), verdict(facts=none)]


VERDICTS = real_verdicts()


def test_the_cases_cover_every_state_and_exit_bit():
    states = {layer.state for one in VERDICTS for layer in one.layers}
    assert {"native", "upstream", "plugin", "unresolved", "unknown"} <= states
    assert {bit for one in VERDICTS for bit in (8, 16, 32) if one.exit_code & bit} == {8, 16, 32}


@pytest.mark.parametrize("found", VERDICTS)
def test_without_a_policy_the_exit_code_is_the_verdicts(found):
    assert report(found).exit_code == found.exit_code
    assert report(found).plain


@pytest.mark.parametrize("found", VERDICTS)
def test_an_outcome_fails_exactly_where_the_exit_code_is_not_zero(found):
    for allowed, strict in product((("native",), ("native", "upstream", "plugin")), (False, True)):
        policy = Policy(allowed_states=dict.fromkeys(LAYER_NAMES, allowed), strict=strict)
        judged = report(found, policy=policy)
        failing = [one for one in judged.verdicts[0].gate.outcomes if one.result in {"fail", "unknown"}]
        assert bool(failing) == bool(judged.exit_code), failing


def test_the_exit_codes_of_a_run_are_joined():
    judged = report(*VERDICTS)
    joined = 0
    for one in VERDICTS:
        joined |= one.exit_code
    assert judged.exit_code == joined
    assert 0 < joined < 64


def test_a_suppressed_layer_sets_no_bit_and_keeps_its_state():
    found = verdict()
    assert found.exit_code == 8 | 16
    judged = report(found, policy=Policy(source="p", suppressions=(suppress("DSA201"),)))
    case = judged.verdicts[0]
    assert judged.exit_code == case.exit_code == 16
    assert case.gate.exit_code_without_policy == 24
    assert case.layers == found.layers
    outcome = next(one for one in case.gate.outcomes if one.finding_id == "DSA201")
    assert outcome.result == "suppressed"
    assert outcome.message.startswith(f"Suppressed until {TODAY}: known.")


def test_a_layer_with_two_failures_needs_both_suppressed():
    facts = facts_for("GLM-5-FP8", "a100")
    rejected = tuple(
        one.model_copy(update={"reasons": ("kv_cache_dtype not supported",)})
        for one in facts.selector.value.answers[0].candidates
    )
    answer = facts.selector.value.answers[0].model_copy(update={"candidates": rejected})
    found = verdict(
        facts=facts.model_copy(
            update={"selector": library.Observation[library.Selector].ok(library.Selector(answers=(answer,)))}
        )
    )
    failing = [one.id for one in found.findings if one.layer == "attention" and one.status == "fail"]
    assert failing == ["DSA201", "DSA205"]
    for some in (failing[:1], failing[1:]):
        policy = Policy(suppressions=tuple(suppress(one) for one in some))
        assert report(found, policy=policy).exit_code & EXIT_BITS["attention"]
    both = Policy(suppressions=tuple(suppress(one) for one in failing))
    assert not report(found, policy=both).exit_code & EXIT_BITS["attention"]


def test_a_runtime_failure_still_counts_once_the_layers_are_suppressed():
    found = verdict()
    layers = Policy(suppressions=(suppress("DSA201"), suppress("DSA301")))
    assert report(found, policy=layers).exit_code == 32
    everything = Policy(suppressions=tuple(suppress(one) for one in ("DSA201", "DSA301", "DSA901", "DSA913")))
    assert report(found, policy=everything).exit_code == 0


def test_the_last_day_counts_and_the_next_one_does_not():
    found = verdict()
    policy = Policy(source="dsa-doctor.toml", suppressions=(suppress("DSA201"),))
    assert report(found, policy=policy, today=TODAY).exit_code == 16
    late = report(found, policy=policy, today=TODAY + timedelta(days=1))
    assert late.exit_code == 24
    assert late.policy.suppressions[0].state == "expired"
    (warning,) = late.policy.warnings
    assert "DSA201 expired on 2026-03-01 and does not apply" in warning


def test_a_suppression_that_matches_nothing_warns():
    policy = Policy(source="dsa-doctor.toml", suppressions=(suppress("DSA302"),))
    judged = report(verdict(), policy=policy)
    assert judged.policy.suppressions[0].state == "stale"
    assert judged.policy.warnings == ("dsa-doctor.toml: the suppression of DSA302 matched nothing. Remove it.",)
    passing = Policy(suppressions=(suppress("DSA101"),))
    assert report(verdict(), policy=passing).policy.suppressions[0].state == "stale", "DSA101 passes here"


@pytest.mark.parametrize(
    ("limits", "state", "code"),
    [
        ({"targets": ("a100",)}, "applied", 16),
        ({"targets": ("sm80",)}, "applied", 16),
        ({"targets": ("8.0", "h100")}, "applied", 16),
        ({"targets": ("h100",)}, "not judged", 24),
        ({"models": ("glm-5-fp8",)}, "applied", 16),
        ({"models": ("zai-org/GLM-5-FP8",)}, "applied", 16),
        ({"models": ("DeepSeek-V3.2-Exp",)}, "not judged", 24),
        ({"targets": ("a100",), "models": ("GLM-5",)}, "not judged", 24),
    ],
)
def test_limits_of_a_suppression(limits, state, code):
    judged = report(verdict(), policy=Policy(suppressions=(suppress("DSA201", **limits),)))
    assert judged.exit_code == code
    assert judged.policy.suppressions[0].state == state
    assert judged.policy.warnings == ()


@pytest.mark.parametrize("layer", LAYER_NAMES)
def test_a_state_that_is_not_allowed_sets_the_layers_bit(layer):
    found = verdict(plugin=True)
    assert found.exit_code == 0
    state = next(one.state for one in found.layers if one.layer == layer)
    assert state != "native"
    allowed = {**Policy().allowed_states, layer: ("native",)}
    judged = report(found, policy=Policy(allowed_states=allowed))
    assert judged.exit_code == EXIT_BITS[layer]
    outcome = next(one for one in judged.verdicts[0].gate.outcomes if one.result == "fail")
    assert f"The state of layer {layer} is {state}, and the policy allows native." in outcome.message


def test_a_layer_that_is_not_required_does_not_fail_the_run():
    found = verdict()
    assert report(found, policy=Policy(required_layers=("csrc",))).exit_code == 0
    assert report(found, policy=Policy(required_layers=("csrc", "attention"))).exit_code == 8
    assert report(found, policy=Policy(required_layers=("csrc", "runtime"))).exit_code == 32
    outcomes = report(found, policy=Policy(required_layers=("csrc",))).verdicts[0].gate.outcomes
    messages = [one.message for one in outcomes if one.finding_id == "DSA301"]
    assert messages == [f"The policy does not require layer indexer. {found.layers[2].reason}"]
    assert {one.result for one in outcomes} <= {"pass", "skip"}


def test_strict_fails_on_warnings():
    found = verdict("GLM-5.1-NVFP4", "h100").model_copy(update={"findings": ()})
    base = verdict(target="h100", cuda_toolkit=library.Observation[library.CudaToolkit].absent("none found"))
    warned = [one for one in base.findings if one.status == "warn"]
    assert [one.id for one in warned if one.id == "DSA905"] == ["DSA905"]
    assert report(base).exit_code == 0
    assert report(base, policy=Policy(strict=True)).exit_code == 32
    quiet = Policy(strict=True, suppressions=tuple(suppress(one.id) for one in warned))
    assert report(base, policy=quiet).exit_code == 0
    layered = base.model_copy(update={"findings": tuple(one.model_copy(update={"layer": "indexer"}) for one in warned)})
    assert report(layered, policy=Policy(strict=True)).exit_code == EXIT_BITS["indexer"]
    stale = Policy(strict=True, suppressions=(suppress("DSA302"),))
    assert report(found, policy=stale).exit_code == 32


def test_nothing_judged_is_an_error_and_not_green():
    from dsa_doctor.policy import apply_policy

    with pytest.raises(ValueError, match="at least one verdict"):
        apply_policy([], Policy(), today=TODAY)


def with_lines(tmp_path, policy_text, judged):
    """Write the suggested lines into a policy file as a reader would, the reason filled in, and load it again."""
    filled = [line.replace(REASON_TO_FILL_IN, "new image in April") for line in judged.policy.downgrade_lines]
    lines = dict(line.split(" = ", 1) for line in filled)
    path = tmp_path / "dsa-doctor.toml"
    path.write_text("\n".join([policy_text, "[suppress]", *(f"{key} = {value}" for key, value in lines.items())]))
    return load_policy(path)


def test_suggested_lines_are_refused_until_their_reason_is_filled_in(tmp_path):
    path = tmp_path / "dsa-doctor.toml"
    path.write_text("\n".join(["[suppress]", *report(verdict()).policy.downgrade_lines]))
    with pytest.raises(PolicyError, match="'say why' is a placeholder"):
        load_policy(path)


@pytest.mark.parametrize("states", ['["native"]', '["native", "upstream", "plugin"]', '["plugin"]'])
@pytest.mark.parametrize("strict", ["true", "false"])
def test_the_suggested_lines_make_any_failing_run_pass(tmp_path, states, strict):
    text = f"allowed-states = {states}\nstrict = {strict}"
    path = tmp_path / "dsa-doctor.toml"
    path.write_text(text)
    policy = load_policy(path)
    for several in [*((one,) for one in VERDICTS), tuple(VERDICTS)]:
        before = report(*several, policy=policy)
        assert bool(before.policy.downgrade_lines) == bool(before.exit_code)
        after = report(*several, policy=with_lines(tmp_path, text, before))
        assert after.exit_code == 0, [one.model_dump() for one in after.verdicts[0].gate.outcomes]
        assert after.policy.warnings == ()


def test_suggested_lines_are_limited_to_what_fails():
    judged = report(verdict(target="a100"), verdict(target="h100"), verdict("DeepSeek-V3.2", "h100"))
    line = next(one for one in judged.policy.downgrade_lines if one.startswith("DSA201"))
    table = tomllib.loads(line)["DSA201"]
    assert table == {
        "targets": ["a100"],
        "models": ["GLM-5-FP8"],
        "reason": "say why",
        "expires": TODAY + timedelta(days=30),
    }


def test_a_suggested_line_keeps_what_is_still_in_force():
    kept = suppress("DSA201", targets=("h100",), expires=date(2030, 1, 1))
    old = suppress("DSA201", expires=date(2020, 1, 1))
    judged = report(
        verdict(), policy=Policy(source="pyproject.toml", table="tool.dsa-doctor", suppressions=(kept, old))
    )
    assert judged.policy.downgrade_table == "pyproject.toml, under [tool.dsa-doctor.suppress]"
    line = next(one for one in judged.policy.downgrade_lines if one.startswith("DSA201"))
    first, second = tomllib.loads(line)["DSA201"]
    assert first == {"targets": ["h100"], "reason": "known", "expires": date(2030, 1, 1)}
    assert second == {"reason": "say why", "expires": TODAY + timedelta(days=30)}


def test_required_layers_in_every_combination_only_ever_remove_bits():
    for found in VERDICTS:
        for size in range(1, len(GATED_LAYERS) + 1):
            for required in combinations(GATED_LAYERS, size):
                code = report(found, policy=Policy(required_layers=required)).exit_code
                assert code & ~(found.exit_code | 32) == 0


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (("GLM-5-FP8",), None),
        (("zai-org/glm-5.2-fp8",), None),  # known, and no part of this run
        (("GLM-5-FP9",), "Did you mean GLM-5-FP8?"),
        (("GLM-5-FP8", "GLM-5*"), "Patterns are not understood"),
        (("my-org/my-model",), "never applies"),
    ],
)
def test_a_model_that_is_nobody_s_warns(models, said):
    judged = report(verdict(), policy=Policy(source="p.toml", suppressions=(suppress("DSA201", models=models),)))
    assert len(judged.policy.warnings) == (said is not None)
    if said is not None:
        assert said in judged.policy.warnings[0]
        strict = Policy(source="p.toml", strict=True, suppressions=(suppress("DSA201", models=models),))
        assert report(verdict(target="h100"), policy=strict).exit_code & 32


def test_a_model_of_this_run_is_somebody_though_the_catalog_lacks_it():
    found = verdict()
    own = found.model_copy(update={"model": found.model.model_copy(update={"name": "my-model", "hub_id": None})})
    policy = Policy(source="p.toml", suppressions=(suppress("DSA201", models=("My-Model",)),))
    assert report(own, policy=policy).policy.warnings == ()
