import getpass
import socket
from pathlib import Path

import pytest

from dsa_doctor.probes import redact as module
from dsa_doctor.probes.redact import last_lines, redact


@pytest.fixture(autouse=True)
def _someone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "marta")
    monkeypatch.setattr(socket, "gethostname", lambda: "node17")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/marta"))
    module._names.cache_clear()
    yield
    module._names.cache_clear()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("HF_TOKEN=hf_AbCdEfGh123", "HF_TOKEN=<secret>"),
        ("token: abc def", "token: <secret> def"),
        ("my_password = 'x y'", "my_password = <secret> y'"),
        ("use hf_AbCdEfGh123 now", "use <secret> now"),
        ("sk-proj_0123456789", "<secret>"),
        ("https://me:pw@host/x", "https://<secret>@host/x"),
        ("/home/marta/venv/lib", "~/venv/lib"),
        ("marta@node17:", "<user>@<host>:"),
        ("smarta martas node170", "smarta martas node170"),
        ("tokenizer loaded, 12 tokens", "tokenizer loaded, 12 tokens"),
    ],
)
def test_what_is_hidden_and_what_stays(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_last_lines_are_few_and_short() -> None:
    assert last_lines("a\n\n  \nb\n" + "c" * 999, count=2, width=10) == ("b", "c" * 10)


def test_a_secret_is_hidden_before_the_line_is_cut() -> None:
    assert last_lines("key hf_" + "x" * 50, width=20) == ("key <secret>",)
