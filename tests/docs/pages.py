"""The pages, and the code that they show, as a Markdown reader sees it."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

REPOSITORY = Path(__file__).parents[2]
FACTS = REPOSITORY / "tests" / "data" / "facts-vllm-0.32.0.json"
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]

_SHELLS = {"sh", "bash", "shell", "console"}
_COMMAND_LINE = re.compile(r"(?:\$ )?(?:[A-Z_]+=\S* )*(?:dsa-doctor|python3?|vllm|pip|pytest) ")
_ENDS = {"&&", "||", ";", "|", "&"}
_ASSIGNMENT = re.compile(r"[A-Z_]+=")


def name_of(page: Path) -> str:
    """Return the page's name within the repository."""
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return language and text of every block of code, indented ones and those within lists included."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    return [
        (token.info.split()[0] if token.info else "", token.content)
        for token in tokens
        if token.type in {"fence", "code_block"}
    ]


@dataclass(frozen=True)
class Command:
    """One program with its arguments, as a page shows it.

    Attributes:
        page: name of the page.
        words: program and arguments; variables before it and redirections are left out.
        reads_pipe: whether another program's output goes to its input.
    """

    page: str
    words: tuple[str, ...]
    reads_pipe: bool = False

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def commands() -> list[Command]:
    """Return every command that a page shows, in order."""
    return [command for page in PAGES for command in _commands(page)]


def _commands(page: Path) -> list[Command]:
    found = []
    for language, text in blocks(page):
        if language and language not in _SHELLS:
            continue
        lines = text.replace("\\\n", " ").splitlines()
        prompted = any(line.startswith("$ ") for line in lines)  # then the other lines are output
        for line in lines:
            if prompted and not line.startswith("$ "):
                continue
            if not language and not _COMMAND_LINE.match(line):
                continue  # a drawing or an output, in a block without a language
            found += _split(name_of(page), line.removeprefix("$ "))
    return found


def _split(page: str, line: str) -> list[Command]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    found, words, piped, skip = [], [], False, False
    for word in [*lexer, ";"]:
        if word in _ENDS:
            if words:
                found.append(Command(page, tuple(words), reads_pipe=piped))
            words, piped = [], word == "|"
        elif skip:  # the file of a redirection
            skip = False
        elif set(word) <= set("<>&"):
            skip = True
            if words and words[-1].isdigit():
                words.pop()
        elif words or not _ASSIGNMENT.match(word):
            words.append(word)
    return found
