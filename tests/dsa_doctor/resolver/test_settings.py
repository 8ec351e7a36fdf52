"""The settings that decide are those in the facts: what they change, what is said where they are not known."""

import pytest

from dsa_doctor.catalog.models import find_model
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Facts, Fingerprint, Settings
from dsa_doctor.installation import this_installation
from dsa_doctor.resolver import Request, Target, resolve
from tests.dsa_doctor import facts_library as library

GLM = find_model("GLM-5-FP8").geometry()
A100 = Target(name="NVIDIA A100 80GB", capability="8.0", source="--target", count=8)
H100 = Target(name="NVIDIA H100 80GB HBM3", capability="9.0", source="--target", count=8)
SERVED = ["upstream", "plugin", "plugin"]
LOST = ["upstream", "unresolved", "unresolved"]


def judge(facts, target=A100, **options):
    return resolve(facts, model=GLM, target=target, request=Request(**options))


def a100(**settings):
    return library.a100_facts(plugin=True, settings=library.settings(**settings))


def states(verdict):
    return [layer.state for layer in verdict.layers]


def found(verdict, status):
    return [one for one in verdict.findings if (one.id, one.status) == ("DSA916", status)]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, SERVED),
        ("dsa_doctor", SERVED),
        ("foo,dsa_doctor", SERVED),
        ("foo", LOST),
        ("", LOST),
        ("foo, dsa_doctor", LOST),  # vLLM compares names as they stand
        ("dsa-doctor", LOST),
    ],
)
def test_a_plugin_that_vllm_does_not_load_serves_nothing(setting, expected):
    verdict = judge(a100(**({} if setting is None else {"VLLM_PLUGINS": setting})))
    assert states(verdict) == expected
    assert verdict.exit_code == (0 if expected == SERVED else 24)
    if expected == LOST:
        first = next(one for one in verdict.findings if one.id == "DSA201")
        assert any("export VLLM_PLUGINS=" in line and "dsa_doctor" in line for line in first.remedy)
        assert not any(this_installation().install in line for one in verdict.findings for line in one.remedy)
        assert "VLLM_PLUGINS" in verdict.layers[1].reason
        assert not next(one for one in verdict.backends if one.name == "TRITON_MLA_SPARSE").accepted


def test_the_remedy_keeps_the_plugins_that_are_allowed():
    verdict = judge(a100(VLLM_PLUGINS="foo,bar"))
    remedy = next(one for one in verdict.findings if one.id == "DSA914").remedy
    assert remedy[0].startswith("export VLLM_PLUGINS=foo,bar,dsa_doctor ")


@pytest.mark.parametrize(("mode", "expected"), [("off", LOST), ("auto", SERVED), ("force", SERVED), (" AUTO ", SERVED)])
def test_the_switch_of_the_judged_environment_decides(monkeypatch, mode, expected):
    for judge_s_own in ("off", "auto", "force"):
        monkeypatch.setenv("DSA_DOCTOR_PLUGIN", judge_s_own)
        monkeypatch.setenv("VLLM_PLUGINS", "something_else")
        assert states(judge(a100(DSA_DOCTOR_PLUGIN=mode))) == expected


def test_the_command_line_wins_and_is_shown():
    verdict = judge(a100(DSA_DOCTOR_PLUGIN="off"), plugin_mode="auto")
    assert states(verdict) == SERVED
    (passed,) = found(verdict, "pass")
    assert "DSA_DOCTOR_PLUGIN=off" in passed.evidence
    assert any(line.startswith("--plugin auto") for line in passed.evidence)
    assert states(judge(a100(), plugin_mode="off")) == LOST


@pytest.mark.parametrize(("target", "answers"), [(A100, None), (H100, (library.answer("9.0", "FLASHMLA_SPARSE"),))])
def test_a_mode_that_stops_vllm_fails_whatever_serves(target, answers):
    changes = {} if answers is None else {"answers": answers}
    facts = library.a100_facts(plugin=True, settings=library.settings(DSA_DOCTOR_PLUGIN="maybe"), **changes)
    verdict = judge(facts, target)
    assert verdict.exit_code != 0
    (failed,) = found(verdict, "fail")
    assert "'maybe'" in failed.summary
    # Not loaded, it stops nothing.
    kept_out = library.settings(DSA_DOCTOR_PLUGIN="maybe", VLLM_PLUGINS="foo")
    assert not found(judge(facts.model_copy(update={"settings": kept_out}), target), "fail")


@pytest.mark.parametrize("target", [A100, H100])
def test_a_value_of_batch_invariance_that_stops_vllm_fails(target):
    changes = {"answers": (library.answer("9.0", "FLASHMLA_SPARSE"),)} if target is H100 else {}
    facts = library.a100_facts(plugin=True, settings=library.settings(DSA_DOCTOR_BATCH_INVARIANT="on"), **changes)
    verdict = judge(facts, target)
    assert verdict.exit_code != 0
    (failed,) = found(verdict, "fail")
    assert failed.summary.startswith("DSA_DOCTOR_BATCH_INVARIANT='on' is not accepted (0 and 1 are), which stops vLLM")
    for harmless in ({"VLLM_PLUGINS": "foo"}, {"DSA_DOCTOR_PLUGIN": "off"}):
        settings = library.settings(DSA_DOCTOR_BATCH_INVARIANT="on", **harmless)
        assert not found(judge(facts.model_copy(update={"settings": settings}), target), "fail")


def test_batch_invariance_is_told_with_what_it_does_not_cover():
    own, *rest = found(judge(a100(DSA_DOCTOR_BATCH_INVARIANT="1")), "pass")
    assert own.summary.startswith("Batch invariance is on")
    assert "are vLLM's" in own.evidence[0]
    assert "VLLM_BATCH_INVARIANT=1" in own.remedy[0]
    assert "DSA_DOCTOR_BATCH_INVARIANT=1" in rest[0].evidence
    whole = found(judge(a100(VLLM_BATCH_INVARIANT="1")), "pass")[0]
    assert whole.summary == own.summary
    assert not whole.remedy
    for settings in ({}, {"DSA_DOCTOR_BATCH_INVARIANT": "0"}):
        assert not any("Batch invariance" in one.summary for one in found(judge(a100(**settings)), "pass"))
    stock = library.h100_facts(plugin=True, settings=library.settings(DSA_DOCTOR_BATCH_INVARIANT="1"))
    assert not any("Batch invariance" in one.summary for one in found(judge(stock, H100), "pass"))


def test_vllms_mode_with_the_plugin_kept_out_of_it_fails():
    (failed,) = found(judge(a100(VLLM_BATCH_INVARIANT="1", DSA_DOCTOR_BATCH_INVARIANT="0")), "fail")
    assert "vLLM then takes none for this model" in failed.summary
    assert failed.remedy[0].startswith("unset DSA_DOCTOR_BATCH_INVARIANT")


def test_settings_that_were_not_recorded_are_unknown_where_the_plugin_decides():
    old = Facts.model_validate_json(library.a100_facts(plugin=True).model_dump_json(exclude={"settings"}))
    assert old.settings.status == "unknown"
    verdict = judge(old)
    assert states(verdict) == SERVED
    (warned,) = found(verdict, "warn")
    assert "prevents that is unknown" in warned.summary
    stock = Facts.model_validate_json(library.h100_facts().model_dump_json(exclude={"settings"}))
    assert not found(judge(stock, H100), "warn")


def test_a_rule_that_was_not_recognised_is_not_guessed():
    unread = Observation[Fingerprint].ok(library.fingerprint(plugins_by_name=None))
    verdict = judge(a100(VLLM_PLUGINS="dsa_doctor").model_copy(update={"fingerprint": unread}))
    assert states(verdict) == LOST
    assert "was not recognised" in verdict.layers[1].reason


def test_variables_that_this_vllm_does_not_read_are_told():
    settings = library.settings(unread=("VLLM_ATTENTION_BACKEND",), VLLM_ATTENTION_BACKEND="FLASHMLA_SPARSE")
    verdict = judge(library.h100_facts(settings=settings), H100)
    (warned,) = found(verdict, "warn")
    assert "VLLM_ATTENTION_BACKEND" in warned.summary
    assert any("--attention-backend" in line for line in warned.remedy)
    assert verdict.exit_code == 0


def test_without_mla_nothing_is_promised():
    verdict = judge(library.h100_facts(settings=library.settings(VLLM_MLA_DISABLE="1")), H100)
    assert verdict.layers[1].state == "unknown"
    assert verdict.exit_code == 32
    assert judge(library.h100_facts(settings=library.settings(VLLM_MLA_DISABLE="0")), H100).exit_code == 0


def test_numbers_in_the_visible_devices_of_a_mixed_machine():
    settings = {"CUDA_VISIBLE_DEVICES": "0"}
    hidden = library.gpu("NVIDIA T4", "7.5", visible=False)
    facts = library.facts(library.A100, hidden, answers=(library.answer("8.0", None, num_heads=64),), plugin=True)
    here = A100.model_copy(update={"source": "this machine", "count": 1})

    def warned(**more):
        changed = facts.model_copy(update={"settings": library.settings(**settings, **more)})
        return [one.id for one in judge(changed, here, tensor_parallel_size=1).findings if one.id == "DSA907"]

    assert warned() == ["DSA907"]
    assert warned(CUDA_DEVICE_ORDER="PCI_BUS_ID") == []


def test_settings_are_kept_in_the_file():
    settings = library.settings(VLLM_PLUGINS="foo")
    again = Facts.model_validate_json(a100(VLLM_PLUGINS="foo").model_dump_json())
    assert again.settings == settings
    assert isinstance(again.settings.value, Settings)
