import pytest

from dsa_doctor.verdict.schema import Finding, Layer, exit_code_of


def layers(*states):
    names = ("csrc", "attention", "indexer")
    return tuple(
        Layer(number=number, layer=name, state=state, reason="x")
        for number, (name, state) in enumerate(zip(names, states, strict=True), 1)
    )


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (("native", "native", "native"), 0),
        (("upstream", "plugin", "plugin"), 0),
        (("unresolved", "native", "native"), 4),
        (("native", "unresolved", "native"), 8),
        (("native", "native", "unresolved"), 16),
        (("unresolved", "unresolved", "unresolved"), 28),
        (("native", "unknown", "native"), 32),
        (("unresolved", "unknown", "unresolved"), 52),
    ],
)
def test_exit_code(states, code):
    assert exit_code_of(layers(*states)) == code


def test_no_layers_is_undetermined():
    assert exit_code_of(()) == 32


@pytest.mark.parametrize(("status", "code"), [("fail", 32), ("warn", 0), ("unknown", 0), ("pass", 0)])
def test_a_failing_runtime_finding_is_not_green(status, code):
    finding = Finding(id="DSA904", layer="runtime", status=status, summary="x")
    assert exit_code_of(layers("native", "native", "native"), (finding,)) == code


def test_a_failing_runtime_finding_adds_nothing_to_an_unresolved_layer():
    finding = Finding(id="DSA901", layer="runtime", status="fail", summary="x")
    assert exit_code_of(layers("native", "native", "unresolved"), (finding,)) == 16
