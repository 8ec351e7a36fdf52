"""Secrets that their name gives away: `HF_TOKEN=…`, `'api_key': ['…']`, `--api-key …`, `"token": "…"`.

Counts and special tokens of language models (`num_tokens=8`, `eos_token: '</s>'`) are none: evidence without its
numbers is worth nothing.
"""

import re
from collections.abc import Iterator

_WORD = re.compile(
    r"(?P<word>tokens?|secrets?|passw(?:or)?ds?|passphrase|passwd|pass|pwd|credentials?|auth"
    r"|(?:api|access|secret|private|signing|encryption|account|shared[_\-]?access|subscription|master|license|auth)"
    r"[_\-]?(?:key|signature)(?:[_\-]?id)?s?)"
    r"(?:_?\d{1,3}|_(?:prod|dev|test|staging|b64|base64|value|old|new))?(?=[\s'\"\\=:\]),])",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"(?P<close>(?:\\{0,3}['\"])?\]?\s{0,4})"
    r"(?P<sign>=>|:=|==?|:(?:\s{0,3}(?:typing\.)?(?:Optional\[)?(?:str|bytes|SecretStr|Any)\]?(?:\s?\|\s?None)?\s{0,3}=)?)"
    r"\s{0,4}"
)
_ARGUMENT = re.compile(r"(?:\\{0,3}['\"]\s{0,2},\s{0,4}|[ \t]{1,8})")
_VALUE = re.compile(
    r"(?P<list>[\[({](?=\s{0,3}(?:\\{0,3}[bru]{0,2}['\"]|<secret>))[^\])}\r\n]*)"
    r"|(?P<wrap>[A-Za-z_]\w{0,40}\(\s{0,3})?[bru]{0,2}(?:"
    r"\\{1,3}(?P<escaped>['\"])(?P<inescaped>[^'\"\\\r\n]*(?:\\(?![\\]{0,2}['\"])[^'\"\\\r\n]*)*)"
    r"|\"(?P<double>(?:[^\"\\\r\n]|\\[^\r\n])*)"
    r"|'(?P<single>(?:[^'\\\r\n]|\\[^\r\n])*)"
    r"|(?P<bare>\S+))"
)
_NAME_BEFORE = re.compile(r"[A-Za-z0-9_.\-]{0,64}\Z")
_WORD_BEFORE = re.compile(r"([A-Za-z]{1,20})[ _\-]{1,2}\Z|([a-z]{2,20})\Z")

_LANGUAGE_MODEL = frozenset(
    [
        "eos",
        "bos",
        "pad",
        "unk",
        "sep",
        "cls",
        "mask",
        "image",
        "img",
        "audio",
        "video",
        "vision",
        "stop",
        "start",
        "end",
        "special",
        "num",
        "max",
        "min",
        "first",
        "last",
        "next",
        "prev",
        "previous",
        "per",
        "think",
        "thinking",
        "tool",
        "reasoning",
        "mm",
        "media",
        "placeholder",
        "output",
        "input",
        "prompt",
        "completion",
        "draft",
        "bonus",
        "sampled",
        "new",
        "cached",
        "each",
        "one",
        "single",
        "total",
        "spec",
        "speculative",
        "accepted",
        "chunk",
        "begin",
        "eot",
        "eom",
        "eoi",
        "boi",
        "cur",
        "current",
        "trigger",
        "decode",
        "prefill",
        "delimiter",
        "unexpected",
        "unknown",
        "illegal",
        "expected",
        "missing",
        "every",
        "word",
        "sub",
        "a",
        "the",
        "of",
        "by",
        "at",
        "byte",
        "text",
        "generated",
        "added",
        "additional",
        "no",
        "any",
        "nth",
        "final",
    ]
)
_NO_SECRETS = re.compile(
    r"(?:none|null|nil|true|false|undefined|str|bytes|any|optional\[.*|secretstr|string|required|optional|yes|no|set|unset"
    r"|\*{3,}|x{3,}|<[\w ./\-|]{0,40}>|\.{3}|…|\$\{?[A-Za-z_]\w*\}?|\$\([^)]*\)|\{\{.*"
    r"|(?:self|args|kwargs|os|config|cfg|settings)\..*"
    r"|[\[\](){},;.:=|&]*|-{1,2}[a-z].*)[\])},;.'\"]*",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER = re.compile(r"[\[({]?\s{0,3}[+\-]?\d[\d.,_e+\-\s%]{0,40}[\w/%]{0,8}[\])},;.'\"]*", re.IGNORECASE)
_TRAILING = re.compile(r"[)\]},;'\"\\]{1,64}\Z")


def assigned_secrets(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the value of a name that promises a secret starts and ends."""
    position = 0
    for match in _WORD.finditer(text):
        if match.start() < position:
            continue
        before = _NAME_BEFORE.search(text, max(0, match.start() - 64), match.start())
        prefix = before.group() if before else ""
        word = match.group("word").lower()
        option = prefix.startswith("--") or "-" in prefix[:1]
        sign = _ASSIGNED.match(text, match.end())
        if sign is None and (option or _listed_header(text, match.end())):
            sign = _ARGUMENT.match(text, match.end())
        if sign is not None and _says_of_a_file(text, match.start() - len(prefix), sign):
            continue
        if sign is None or not _names_a_secret(word, prefix, text[max(0, match.start() - 24) : match.start()]):
            continue
        value = _VALUE.match(text, sign.end())
        if value is None:
            continue
        start, end = _bounds(
            text, value, in_query=text[match.start() - len(prefix) - 1 : match.start()][:1] in {"?", "&"}
        )
        content = text[start:end]
        counts = word.startswith(("token", "auth", "credential", "pass")) and _NUMBER.fullmatch(content) is not None
        if content and not counts and not _NO_SECRETS.fullmatch(content):
            position = end
            yield start, end


def _says_of_a_file(text: str, start: int, sign: re.Match[str]) -> bool:
    """Whether what stands there is the end of a path, of which something is said: `/etc/passwd: Permission denied`."""
    return text[max(0, start - 1) : start] == "/" and re.fullmatch(r":[ \t]{1,4}", sign.group()) is not None


def _listed_header(text: str, end: int) -> bool:
    """Whether the name is the quoted first part of a pair, as headers are listed: `(b'x-api-key', b'…')`."""
    return re.match(r"['\"]\s{0,2},\s{0,2}b?['\"]", text[end : end + 8]) is not None


def _names_a_secret(word: str, prefix: str, before: str) -> bool:
    """Whether the name that ends in `word` is that of a secret; `before` is the text in front of the word."""
    last = re.split(r"[_.\-]", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", prefix).rstrip("_.-").lower())[-1]
    if word == "tokens":
        return last in {"access", "auth", "api", "hf", "hub", "refresh", "bearer"}
    if word == "token":
        spoken = _WORD_BEFORE.search(before)
        told = (spoken.group(1) or "").lower() if spoken else ""
        return last not in _LANGUAGE_MODEL and told not in _LANGUAGE_MODEL
    if word in {"pass", "pwd"}:
        return bool(last) and last != "old" and prefix[-1:] in {"_", "-"}
    if word == "auth":
        return prefix in {"", "_", "--"} or prefix.lower().endswith(
            ("http_", "http-", "basic_", "basic-", "proxy_", "proxy-")
        )
    return True


def _bounds(text: str, value: re.Match[str], *, in_query: bool) -> tuple[int, int]:
    """Return where the value itself starts and ends, without quotes and brackets."""
    for name in ("double", "single", "inescaped"):
        if value.group(name) is not None:
            return value.span(name)
    if value.group("list") is not None:
        start, end = value.span("list")
        return start + 1, end
    start, end = value.span("bare")
    if in_query and (amp := text.find("&", start, end)) >= 0:
        end = amp
    if trailing := _TRAILING.search(text, max(start, end - 64), end):
        end = trailing.start()
    return start, end
