"""Finds functions, classes and imported names in Python sources, by text, without importing or executing anything.

Only the lines of interest are parsed, so that looking up a few names in files of thousands of lines takes milliseconds.
"""

import ast
import re
from functools import lru_cache
from pathlib import Path

_STATEMENT = re.compile(r"^(?:class|def|async def|@|[A-Za-z_]\w*\s*[:=(])", re.MULTILINE)

_LONGEST_HEADER = 120
"""Lines; the longest header seen in vLLM has 60."""


class SourceTree:
    """The sources of one package, read from its folder.

    Attributes:
        root: folder that holds the package's folder, e.g. site-packages.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._read = lru_cache(maxsize=None)(self._read_file)
        self._parsed = lru_cache(maxsize=None)(self._parse_file)

    def text(self, module: str) -> str | None:
        """Return the source of a module, or None where there is no such file."""
        return self._read(module)

    def statements(self, module: str) -> list[ast.stmt]:
        """Return the parsed top level of a module, empty where there is no such file.

        Raises:
            SyntaxError: this Python cannot parse it.
        """
        return self._parsed(module)

    def _parse_file(self, module: str) -> list[ast.stmt]:
        return ast.parse(self.text(module) or "").body

    def block(self, module: str, name: str) -> ast.stmt | None:
        """Return a top-level function or class, parsed alone: a module of thousands of lines takes long.

        Raises:
            SyntaxError: this Python cannot parse it.
        """
        text = self.text(module) or ""
        found = _class_body(text, name) or _block(text, rf"^def {re.escape(name)}\(")
        return ast.parse(found).body[0] if found else None

    def _read_file(self, module: str) -> str | None:
        base = self.root.joinpath(*module.split("."))
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            try:
                return file.read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, NotADirectoryError):
                continue
        return None

    def parameters(self, module: str, name: str) -> tuple[str, ...] | None:
        """Return the parameter names of `function` or `Class.method`, or None where it is not defined there.

        A parameter that must be given by keyword is prefixed with "*,", catch-alls with "*" and "**".
        """
        text = self.text(module)
        if text is None:
            return None
        owner, _, function = name.rpartition(".")
        indent = ""
        if owner:
            text = _class_body(text, owner)
            if text is None:
                return None
            indent = r"[ \t]+"
        match = re.search(rf"^{indent}(?:async )?def {re.escape(function)}\(", text, re.MULTILINE)
        return _signature(text[match.start() :]) if match else None

    def has_class(self, module: str, name: str) -> bool:
        """Whether the module defines the class at its top level."""
        text = self.text(module)
        return text is not None and _class_body(text, name) is not None

    def has_global(self, module: str, name: str) -> bool:
        """Whether the module assigns the name at its top level."""
        text = self.text(module)
        return text is not None and re.search(rf"^{re.escape(name)}\b[^=\n]*=[^=]", text, re.MULTILINE) is not None

    def imports(self, module: str, origin: str, name: str) -> bool:
        """Whether the module imports `name` from `origin` at its top level, under its own name."""
        text = self.text(module)
        if text is None:
            return False
        blocks = re.finditer(rf"^from {re.escape(origin)} import (\([^)]*\)|[^\n]+)", text, re.MULTILINE)
        for block in blocks:
            listed = re.sub(r"#[^\n]*", "", block.group(1)).strip("() \n")
            if name in (entry.strip() for entry in listed.split(",")):
                return True
        return False

    def shows(self, module: str, name: str, expects: str) -> bool:
        """Whether the text of a top-level class or function, or of the whole module without a name, matches."""
        source = self.text(module)
        if source is None:
            return False
        body = (_class_body(source, name) or _block(source, rf"^def {re.escape(name)}\(")) if name else source
        return body is not None and re.search(expects, body) is not None

    def mentions(self, module: str, name: str, text: str) -> bool:
        """Whether the body of a top-level class or function holds `text`; False where there is no such body."""
        source = self.text(module)
        if source is None:
            return False
        body = _class_body(source, name) or _block(source, rf"^def {re.escape(name)}\(")
        return body is not None and text in body


def _class_body(text: str, name: str) -> str | None:
    return _block(text, rf"^class {re.escape(name)}\b")


def _block(text: str, start: str) -> str | None:
    """Return the text from a top-level statement to the next one."""
    match = re.search(start, text, re.MULTILINE)
    if match is None:
        return None
    # From the next line on: the rest of the first one is no statement of its own.
    end = _STATEMENT.search(text, text.find("\n", match.end()) + 1 or len(text))
    return text[match.start() : end.start()] if end else text[match.start() :]


def _signature(text: str) -> tuple[str, ...] | None:
    """Parse the parameters of the function that `text` begins with, reading no further than its header."""
    lines: list[str] = []
    for line in text.splitlines()[:_LONGEST_HEADER]:
        lines.append(line.strip())
        ends_header = re.search(r":\s*(#.*)?$", line) is not None
        try:
            parsed = ast.parse("\n".join([*lines, " pass"] if ends_header else lines))
        except SyntaxError:
            continue
        function = parsed.body[0]
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        return parameter_names(function.args)
    return None


def parameter_names(arguments: ast.arguments) -> tuple[str, ...]:
    """Return parameter names, with keyword-only ones and catch-alls marked as in `SourceTree.parameters`."""
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    if arguments.vararg:
        names.append("*" + arguments.vararg.arg)
    names += ["*," + one.arg for one in arguments.kwonlyargs]
    if arguments.kwarg:
        names.append("**" + arguments.kwarg.arg)
    return tuple(names)
