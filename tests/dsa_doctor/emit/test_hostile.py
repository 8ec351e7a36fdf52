"""A hostile round: whatever stands in a name or an option, the emitted form runs what it should and nothing else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dsa_doctor.emit import FORMS, EmitError, check_image, check_launch
from dsa_doctor.launch.flags import Flag, Variable
from tests.dsa_doctor.emit.test_forms import _launch

PAYLOADS = [
    "a\ntouch PWNED",
    "a\r\ntouch PWNED #",
    "$(touch PWNED)",
    "`touch PWNED`",
    "${IFS:$(touch PWNED)}",
    "'; touch PWNED; '",
    "'\"'\"'; touch PWNED; echo '",
    '"; touch PWNED; "',
    '"$(touch PWNED)"',
    "\\'; touch PWNED; \\'",
    "x; touch PWNED",
    "x && touch PWNED",
    "x | touch PWNED",
    "x & touch PWNED &",
    "x > PWNED",
    "<(touch PWNED)",
    "$((a[$(touch PWNED)]))",
    "!touch PWNED",
    "# touch PWNED",
    "\\",
    "a\\\ntouch PWNED",
    "\\\n",
    "* ? [a-z] {a,b} ~",
    "$rank $master ${headless[@]} $HOME",
    "@rank@",
    "@master@",
    "$(LWS_WORKER_INDEX) $$(LWS_GROUP_SIZE) $$ $é a$",
    "\u2028touch PWNED",
    "\u2029touch PWNED",
    "\u0085touch PWNED",
    "\u202etouch PWNED",
    "\x1b]0;title\x07\x1b[2J",
    "\x08\x08\x7f\x00"[:3],
    "‘touch’ “PWNED”",
    "--privileged",
    "-v /:/host",
    "EOF\ntouch PWNED\nEOF",
    "---\nkind: Pod",
    "&anchor *alias !!python/object:os.system",
    "{a: b, [c]}",
    "key: value # comment",
    "%TAG ! tag:",
    "a,b\"c,source=/,readonly",
    "/models/a:b:rw",
    "y", "no", "1e3", "0x1f", "0o17", "12:30:45", "~", "null", ".inf", "=", "<<", "2030-01-01", "", " ", "\t",
]  # fmt: skip
STUBS = ("dsa-doctor", "vllm", "docker", "ray", "python3", "sleep")
REST = ("bash", "seq", "env", "printf")
"""All else that a script may find."""


def hostile(payload, nodes, **changes):
    """A launch with the payload everywhere that a user or a checkpoint reaches."""
    return _launch(
        nodes,
        name=payload,
        model=payload,
        flags=(Flag(option="--served-model-name", value=payload, why="w", source="s"),),
        variables=(Variable(name="DSA_DOCTOR_NAME", value=payload, why="w", source="s"),),
        extra=("--odd", payload),
        **changes,
    )


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bin")
    for name in STUBS:
        (folder / name).write_text(
            "#!/bin/bash\n"
            'for one in "${0##*/}" "$@"; do printf "%s\\0" "$one"; done >> "$CALLS"\nprintf "\\1" >> "$CALLS"\n'
            + ("printf 16\n" if name == "python3" else "")
        )
        (folder / name).chmod(0o755)
    for name in REST:
        if (found := shutil.which(name)) is not None:
            (folder / name).symlink_to(found)
    return folder


def calls_of(text, folder, stubs, *arguments):
    """Run a script where nothing but the stubs can be found; return what they were given."""
    here = folder / "here"
    here.mkdir()
    (folder / "serve.sh").write_text(text, newline="")
    environment = {"PATH": os.fspath(stubs), "CALLS": os.fspath(folder / "calls"), "HOME": "/home/someone"}
    done = subprocess.run(
        ["/bin/bash", folder / "serve.sh", *arguments], env=environment, cwd=here, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(here.iterdir()) == [], "something else ran"
    return [row.split("\0")[:-1] for row in (folder / "calls").read_bytes().decode().split("\1") if row]


@pytest.mark.parametrize("form", ["shell", "docker", "ray"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_nothing_but_the_commands_runs_and_every_word_arrives(form, nodes, tmp_path, stubs):
    for number, payload in enumerate(PAYLOADS):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = FORMS[form](hostile(payload, nodes))
        rows = calls_of(text, folder, stubs, "1" if form != "ray" else "0", "10.0.0.1")
        names = [row[0] for row in rows]
        assert set(names) <= {"docker"} if form == "docker" else set(names) <= {"dsa-doctor", "vllm", "ray", "python3"}
        (serve,) = [row for row in rows if "serve" in row]
        assert serve[serve.index("serve") + 1] == payload
        assert serve[serve.index("--served-model-name") + 1] == payload
        assert serve[serve.index("--odd") + 1] == payload
        assert [row[row.index("check") + 1] for row in rows if "check" in row] == [payload]
        if form == "docker":
            assert f"DSA_DOCTOR_NAME={payload}" in serve


@pytest.mark.parametrize("form", FORMS)
def test_comments_are_one_line_of_visible_characters(form):
    for payload in PAYLOADS:
        text = FORMS[form](hostile(payload, 2))
        for line in re.split("[\n\r\u0085\u2028\u2029]", text):
            if line.lstrip().startswith("#") and "made by dsa-doctor" in line:
                assert line.isprintable()
        head = text.split("\n")[2 if text.split("\n")[1].startswith("# shellcheck") else 1 if form != "lws" else 0]
        assert head.startswith("# ")
        assert head.endswith(f"made by dsa-doctor run-model --emit {form}.")


@pytest.mark.parametrize("form", ["shell", "docker", "ray"])
def test_hostile_scripts_pass_shellcheck(form, tmp_path):
    shellcheck = shutil.which("shellcheck") or os.fspath(Path(sys.executable).with_name("shellcheck"))
    scripts = []
    for number, payload in enumerate(PAYLOADS):
        scripts.append(tmp_path / f"{number}.sh")
        scripts[-1].write_text(FORMS[form](hostile(payload, 2)), newline="")
    done = subprocess.run([shellcheck, "--severity=warning", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def kubelet_expands(text, variables):
    """What kubelet makes of $(NAME), $$ and all else (third_party/forked/golang/expansion)."""
    return re.sub(
        r"\$(\$|\((\w+)\))?",
        lambda found: "$" if found[1] in {"$", None} else variables.get(found[2], found[0]),
        text,
    )


@pytest.mark.parametrize("nodes", [1, 2])
def test_manifests_hold_every_word_as_text_and_no_anchor(nodes):
    variables = {"LWS_WORKER_INDEX": "1", "LWS_GROUP_SIZE": "2", "LWS_LEADER_ADDRESS": "leader"}
    for payload in PAYLOADS:
        text = FORMS["lws"](hostile(payload, nodes))
        assert all(one.isprintable() or one == "\n" for one in text)
        assert not any(
            isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken) for token in yaml.scan(text)
        )
        workers, _ = yaml.safe_load_all(text)
        pod = workers["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]
        (check,), (serve,) = pod["initContainers"], pod["containers"]
        words = [kubelet_expands(one, variables) for one in serve["args"]]
        assert words[0] == payload
        assert words[words.index("--served-model-name") + 1] == payload
        assert words[words.index("--odd") + 1] == payload
        assert kubelet_expands(check["args"][0], variables) == payload
        assert kubelet_expands(serve["env"][0]["value"], variables) == payload
        if nodes == 2:
            assert words[words.index("--node-rank") + 1] == "1"
            assert words[words.index("--master-addr") + 1] == "leader"


@pytest.mark.parametrize(
    "text", ["y", "no", "ON", "True", "1e3", "0x1f", "0b1", "0o17", "1_000", "12:30", "~", "null", ".NaN"]
)
def test_no_reader_of_yaml_takes_a_word_for_a_number_or_a_boolean(text):
    """Kubernetes' reader knows more spellings than PyYAML: those are in quotes too."""
    manifest = FORMS["lws"](_launch(1, extra=("--odd", text)))
    assert f"- '{text}'\n" in manifest


@pytest.mark.parametrize("payload", [one for one in PAYLOADS if not one.replace("\n", "").isprintable() or "\n" in one])
def test_control_characters_are_refused_where_names_come_in(payload):
    with pytest.raises(EmitError, match=r"^MODEL .*: character \d+ is U\+"):
        check_launch(hostile(payload, 1))


def test_an_options_value_may_have_several_lines_but_no_other_control_character():
    check_launch(_launch(1, extra=("--config", '{\n\t"a": 1\n}')))
    with pytest.raises(EmitError, match=r"^argument 2 after -- .*U\+001B"):
        check_launch(_launch(1, extra=("--config", "\x1b[2J")))


@pytest.mark.parametrize(
    "image", ["--privileged", "-v", "", "a b", "a\nb", "$(x)", "a;b", "a'b", "ünï", "a\u202eb", "#a", "a,b"]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(EmitError, match=r"^--image .* Accepted: an image such as"):
        check_image(image)


@pytest.mark.parametrize(
    "image",
    ["vllm", "vllm/vllm-openai:v0.32.0", "registry.example:5000/a/b@sha256:0123abcd", "[::1]:5000/a_b/c.d:x-y"],
)
def test_what_is_an_image_is_accepted(image):
    check_image(image)


def test_a_local_folder_is_mounted_in_every_container(tmp_path, stubs):
    folder = '/models/my, "odd": folder'
    command = calls_of(FORMS["docker"](_launch(1, model=folder)), tmp_path, stubs)[1]
    mount = command[command.index("--mount") + 1]
    assert mount == 'type=bind,"source=/models/my, ""odd"": folder","target=/models/my, ""odd"": folder",readonly'
    text = FORMS["lws"](_launch(2, model="/models/glm"))
    assert "# The model is a local folder, mounted from the node (hostPath)" in text
    workers, _ = yaml.safe_load_all(text)
    for name in ("leaderTemplate", "workerTemplate"):
        pod = workers["spec"]["leaderWorkerTemplate"][name]["spec"]
        assert {"name": "models", "hostPath": {"path": "/models/glm", "type": "Directory"}} in pod["volumes"]
        for container in (*pod["initContainers"], *pod["containers"]):
            assert {"name": "models", "mountPath": "/models/glm", "readOnly": True} in container["volumeMounts"]


def test_a_snapshot_of_the_hubs_cache_is_mounted_with_the_files_that_it_links_to():
    snapshot = "/data/hub/models--zai-org--GLM-5-FP8/snapshots/abc"
    assert _launch(1, model=snapshot).model_folder == "/data/hub/models--zai-org--GLM-5-FP8"
    assert _launch(1, model="zai-org/GLM-5-FP8").model_folder is None


def test_a_missing_command_or_image_is_said(tmp_path, stubs):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "bin" / "docker").chmod(0o755)
    for form, said in (("shell", "dsa-doctor is not installed here"), ("docker", "holds no dsa-doctor")):
        (tmp_path / "serve.sh").write_text(FORMS[form](_launch(1)))
        done = subprocess.run(
            ["/bin/bash", tmp_path / "serve.sh"],
            env={"PATH": os.fspath(tmp_path / "bin"), "HOME": "/"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 127
        assert said in done.stderr
    assert not any("install dsa-doctor" in form(_launch(2)) for form in FORMS.values()), "it is on no index"


def test_the_command_line_refuses_an_image_before_anything_is_asked():
    command = [sys.executable, "-m", "dsa_doctor", "run-model", "GLM-5-FP8", "-t", "a100"]
    done = subprocess.run(
        [*command, "--emit", "docker", "--image", "img\ntouch PWNED"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert r"--image 'img\ntouch PWNED' is not accepted" in done.stderr
    assert done.stdout == ""
