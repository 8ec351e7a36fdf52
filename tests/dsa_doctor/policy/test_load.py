"""Policy files: what is accepted, and errors that name the file, the key and what is accepted."""

import contextlib
import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_doctor.policy import Policy, PolicyError, find_policy, load_policy
from dsa_doctor.policy.downgrade import REASON_TO_FILL_IN
from dsa_doctor.policy.load import policy_from

FULL = """
models = ["GLM-5-FP8", "DeepSeek-V3.2"]
targets = ["a100", "l40s", "sm90"]
required-layers = ["csrc", "attention"]
allowed-states = { attention = ["native"] }
strict = true

[suppress]
DSA201 = { reason = " until the new image ", expires = 2026-06-30, targets = ["a100"], models = ["GLM-5-FP8"] }
DSA902 = [
    { reason = "image of January", expires = 2026-01-01 },
    { reason = "fixed by #123", expires = 2027-01-01, targets = ["8.0"] },
]
"""


def written(tmp_path, text, name="dsa-doctor.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_every_key_is_read(tmp_path):
    policy = load_policy(written(tmp_path, FULL))
    assert policy.source == "dsa-doctor.toml"
    assert policy.models == ("GLM-5-FP8", "DeepSeek-V3.2")
    assert policy.targets == ("a100", "l40s", "sm90")
    assert policy.required_layers == ("csrc", "attention")
    assert policy.allowed_states == {
        "csrc": ("native", "upstream", "plugin"),
        "attention": ("native",),
        "indexer": ("native", "upstream", "plugin"),
    }
    assert policy.strict
    first, second, third = policy.suppressions
    assert (first.id, first.reason, first.expires) == ("DSA201", "until the new image", date(2026, 6, 30))
    assert (first.targets, first.models) == (("a100",), ("GLM-5-FP8",))
    assert [second.reason, third.reason] == ["image of January", "fixed by #123"]


def test_the_same_in_pyproject(tmp_path):
    body = FULL.replace("[suppress]", "[tool.dsa-doctor.suppress]")
    path = written(tmp_path, f"[project]\nname = 'x'\n[tool.dsa-doctor]\n{body}", "pyproject.toml")
    in_project = load_policy(path)
    alone = load_policy(written(tmp_path, FULL))
    assert in_project.suppress_table == "tool.dsa-doctor.suppress"
    assert alone.suppress_table == "suppress"
    assert in_project.model_dump(exclude={"source", "table"}) == alone.model_dump(exclude={"source", "table"})


def test_one_list_of_states_holds_for_every_layer(tmp_path):
    policy = load_policy(written(tmp_path, 'allowed-states = ["native", "plugin"]'))
    assert set(policy.allowed_states.values()) == {("native", "plugin")}


def test_a_folder_without_policy_has_the_defaults(tmp_path):
    written(tmp_path, "[project]\nname = 'x'\n[tool.ruff]\n", "pyproject.toml")
    assert find_policy(tmp_path) == Policy()


def test_a_project_that_does_not_speak_of_us_is_left_alone_and_one_that_does_is_read(tmp_path):
    written(tmp_path, "[project\nname = ", "pyproject.toml")
    assert find_policy(tmp_path) == Policy()
    written(tmp_path, "[project\n[tool.dsa-doctor]", "pyproject.toml")
    with pytest.raises(PolicyError, match="not valid TOML"):
        find_policy(tmp_path)


def test_the_own_file_comes_before_pyproject(tmp_path):
    written(tmp_path, "[tool.dsa-doctor]\nstrict = true\n", "pyproject.toml")
    assert find_policy(tmp_path).source == "pyproject.toml"
    written(tmp_path, "")
    found = find_policy(tmp_path)
    assert (found.source, found.strict) == ("dsa-doctor.toml", False)


@pytest.mark.parametrize(
    ("text", "key", "accepted"),
    [
        ("required_layers = ['csrc']", "required_layers", "did you mean required-layers?"),
        ("no-such = 1", "no-such", "suppress"),
        ("models = 'GLM-5'", "models", "a list of names"),
        ("models = [1]", "models", "a list of names"),
        ("targets = ['v200']", "targets", "Accepted: a GPU (a100"),
        ("required-layers = []", "required-layers", "at least one of csrc, attention, indexer, runtime"),
        ("required-layers = ['gpu']", "required-layers", "csrc, attention, indexer, runtime"),
        ("allowed-states = []", "allowed-states", "at least one of native, upstream, plugin"),
        ("allowed-states = ['unresolved']", "allowed-states", "native, upstream, plugin"),
        ("allowed-states = { attn = ['native'] }", "allowed-states.attn", "csrc, attention, indexer"),
        ("allowed-states = 'native'", "allowed-states", "a table of such lists by layer"),
        ("strict = 'yes'", "strict", "true or false"),
        ("suppress = ['DSA201']", "suppress", "a table of finding ids"),
        ("[suppress]\nDSA2001 = { reason = 'known', expires = 2026-01-01 }", "suppress.DSA2001", "e.g. DSA201"),
        ("[suppress]\nDSA201 = 'r'", "suppress.DSA201", '{ reason = "why", expires = 2030-01-31 }'),
        ("[suppress]\nDSA201 = { expires = 2026-01-01 }", "suppress.DSA201.reason", "a reason is required"),
        ("[suppress]\nDSA201 = { reason = ' ', expires = 2026-01-01 }", "suppress.DSA201.reason", "a text"),
        ("[suppress]\nDSA201 = { reason = 'known' }", "suppress.DSA201.expires", "an expiry date is required"),
        (
            "[suppress]\nDSA201 = { reason = 'known', expires = '2026-01-01' }",
            "suppress.DSA201.expires",
            "without quotes",
        ),
        (
            "[suppress]\nDSA201 = { reason = 'known', expires = 2026-01-01T00:00:00Z }",
            "suppress.DSA201.expires",
            "a TOML date",
        ),
        (
            "[suppress]\nDSA201 = { reason = 'known', expires = 2026-01-01, gpu = 'a100' }",
            "suppress.DSA201.gpu",
            "targets",
        ),
        (
            "[suppress]\nDSA201 = { reason = 'known', expires = 2026-01-01, targets = ['x9'] }",
            "suppress.DSA201.targets",
            "a100",
        ),
    ],
)
def test_what_is_not_accepted_is_named(tmp_path, text, key, accepted):
    with pytest.raises(PolicyError) as caught:
        load_policy(written(tmp_path, text))
    message = str(caught.value)
    assert message.startswith(f"dsa-doctor.toml: {key}")
    assert "Accepted: " in message
    assert accepted in message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("dsa-doctor.toml", b"strict = ", "not valid TOML"),
        ("dsa-doctor.toml", b"\xfe\xfe", "cannot be read"),
        ("pyproject.toml", b"[project]\nname = 'x'", "has no table [tool.dsa-doctor]"),
        ("pyproject.toml", b"tool = {dsa-doctor = 1}", "must be a table"),
    ],
)
def test_a_file_that_is_no_policy(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PolicyError, match=re.escape(said)):
        load_policy(path)


@pytest.mark.parametrize(
    "reason",
    [
        "TODO",
        "todo: fill in",
        "x",
        "xxx",
        "...",
        "-",
        "???",
        "N/A",
        "n.a.",
        "tbd",
        "FIXME!",
        "because",
        "…",
        "none",
        "ok",
        REASON_TO_FILL_IN,
        REASON_TO_FILL_IN.upper(),
        f"<{REASON_TO_FILL_IN}>",
        "\u3000",
        "aaaaaa",
        "reason",
    ],
)
def test_a_placeholder_is_no_reason(tmp_path, reason):
    text = f"[suppress]\nDSA201 = {{ reason = '{reason}', expires = 2030-01-01 }}"
    with pytest.raises(PolicyError, match=r"suppress\.DSA201\.reason: .* Accepted: a text that says why"):
        load_policy(written(tmp_path, text))


@pytest.mark.parametrize(
    "reason", ["see INFRA-12", "#4711", "known", "wartet auf das neue Image", "等待新镜像", "no GPU yet"]
)
def test_what_somebody_can_judge_later_is_a_reason(tmp_path, reason):
    text = f"[suppress]\nDSA201 = {{ reason = '{reason}', expires = 2030-01-01 }}"
    assert load_policy(written(tmp_path, text)).suppressions[0].reason == reason


def test_every_problem_is_named_and_a_mistyped_key_first(tmp_path):
    text = "strict = 1\n[suppress]\nDSA201 = { resaon = 'known', expires = 2030-01-01 }"
    with pytest.raises(PolicyError) as caught:
        load_policy(written(tmp_path, text))
    first, *rest = str(caught.value).splitlines()
    assert first.startswith("dsa-doctor.toml: suppress.DSA201.resaon: unknown key (did you mean reason?). Accepted: ")
    assert {one.split(": ")[1] for one in rest} == {"strict", "suppress.DSA201.reason"}


@pytest.mark.parametrize("key", ["models = [{}]", "[suppress]\nDSA201 = {{ reason = {}, expires = 2030-01-01 }}"])
@pytest.mark.parametrize("character", ["\\u001b", "\\n", "\\u2028", "\\u202E", "\\u0000"])
def test_control_characters_in_names_are_refused(tmp_path, key, character):
    with pytest.raises(PolicyError, match=r"character 5 is U\+"):
        load_policy(written(tmp_path, key.format(f'"some{character}thing"')))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a = " + b"[\n" * 100_000, "nested deeper"),
        (b".".join([b"a"] * 200_000) + b" = 1", "too many dots"),
        (b"strict = " + b"9" * 5000, "not valid TOML"),
        (b"#" * (5 << 20), "larger than 4 MiB"),
    ],
)
def test_a_policy_that_would_cost_time_or_memory_is_refused(tmp_path, content, said):
    path = tmp_path / "dsa-doctor.toml"
    path.write_bytes(content)
    with pytest.raises(PolicyError, match=said):
        load_policy(path)


def test_a_policy_that_never_ends_is_refused_and_the_null_device_is_none():
    with pytest.raises(PolicyError, match="it is a device"):
        load_policy(Path("/dev/zero"))
    assert load_policy(Path("/dev/null")).suppressions == ()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_policy_as_other_systems_save_it(tmp_path, encoding):
    path = tmp_path / "dsa-doctor.toml"
    path.write_bytes(FULL.encode(encoding))
    assert load_policy(path) == load_policy(written(tmp_path, FULL, "dsa-doctor.toml"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path / "nowhere.toml")


TOML_VALUES = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["models", "targets", "required-layers", "allowed-states", "strict", "suppress", "other"])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS, TOML_VALUES, max_size=4))
def test_any_table_is_a_policy_or_a_policy_error(table):
    policy = None
    with contextlib.suppress(PolicyError):
        policy = policy_from(table, file="dsa-doctor.toml")
    assert policy is None or policy.required_layers
