"""Which module of a checkpoint is stored in which format: an ordered list of rules, the first that matches decides."""

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import cached_property
from typing import Literal

from dsa_doctor.catalog.quantization.formats import WeightFormat
from dsa_doctor.facts.observation import Fact

Match = Literal["exact", "regex", "search", "glob", "substring", "component", "class"]
"""How a rule's patterns are compared with a module's name.

exact: equal. regex: re.match, from the start. search: re.search. glob: fnmatch. substring: anywhere in the name.
component: whole parts of the dotted name in a row, e.g. `self_attn` or `layers.0.mlp`. class: the module's class.
"""
ModuleClass = Literal["Linear", "Embedding", "other"]

MAX_PATTERNS = 100_000
MAX_REGEX = 2000
_MAX_REPEATS = 12
_NESTED_REPEAT = re.compile(r"\([^()]*[*+}][^()]*\)[*+{]")

_LAYER_NUMBER = re.compile(r"layers\\?\.[\d\[\]()|?:\\d+*{},-]*")

_EXPERT_NUMBER = re.compile(r"experts\\?\.(?:\\d[+*]|\[0-9\][+*]|\(\\d\+\)|\[\^\\?\.\][+*]|\*)")
_WRAPPERS = ("model.", "model.language_model.", "language_model.model.", "language_model.")
"""What may stand before `layers.N` in a checkpoint's own names: multimodal wrappers put the text model inside."""


class Rule(Fact):
    """Modules that are stored alike.

    Attributes:
        how: how the patterns are compared.
        patterns: names, expressions or classes.
        format: how these modules are stored; None for the model's own dtype.
    """

    how: Match
    patterns: tuple[str, ...]
    format: WeightFormat | None


class Quantization(Fact):
    """A checkpoint's quantisation.

    Attributes:
        method: quant_method of the configuration, lower case.
        rules: in the order in which they are asked; a module that no rule matches is stored as the model's dtype.
        native: whether only those weights are candidates that the model's own FP8 checkpoint quantises; otherwise every
            linear module is.
        uncertain: why the bytes are not fully determined by the configuration, beside formats that are unknown.
        problems: settings that could not be used, each with its key and what came.
    """

    method: str
    rules: tuple[Rule, ...]
    native: bool = False
    uncertain: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @cached_property
    def matchers(self) -> tuple["_Matcher", ...]:
        """Return the rules, prepared for many look-ups."""
        return tuple(_Matcher(rule) for rule in self.rules)

    @cached_property
    def _is_wrapped(self) -> bool:
        return any("language" in one for rule in self.rules for one in rule.patterns)

    @cached_property
    def _found(self) -> dict[tuple[str, ModuleClass], WeightFormat | None]:
        return {}

    def format_of(self, module: str, module_class: ModuleClass = "Linear") -> WeightFormat | None:
        """Return how a module's weight is stored; None for the model's own dtype.

        Args:
            module: dotted name as in transformers' model, e.g. "model.layers.3.mlp.experts.0.up_proj".
            module_class: what transformers makes of it; class rules ask for it.
        """
        key = (module, module_class)
        if key not in self._found:
            names = _spellings(module) if self._is_wrapped else (module,)
            matching = (one for one in self.matchers if one.matches(names, module_class))
            first = next(matching, None)
            self._found[key] = first.format if first is not None else None
        return self._found[key]

    @property
    def block(self) -> tuple[int, int] | None:
        """Return rows and columns that share one scale in the linear modules that no name singles out, if blocks do."""
        forms = [rule.format for rule in self.rules if rule.how == "class" and rule.format is not None]
        return forms[-1].block if forms and forms[-1].scales == "block" else None

    @property
    def is_known(self) -> bool:
        """Whether every format that a rule gives is known."""
        return all(rule.format is None or rule.format.is_known for rule in self.rules)

    def lowest(self) -> "Quantization":
        """Return the same with every format that is known by a range only at the low end of it."""
        return self.within(0.0)

    def within(self, share: float) -> "Quantization":
        """Return the same with every format that is known by a range at one point of it, 0 the low end."""
        rules = tuple(
            rule if rule.format is None else rule.model_copy(update={"format": rule.format.within(share)})
            for rule in self.rules
        )
        # A copy would keep the prepared rules and what was found with them.
        return Quantization(**{**dict(self), "rules": rules})

    def substrings(self) -> tuple[str, ...]:
        """Return the patterns that leave modules alone wherever they stand in a name."""
        return tuple(one for rule in self.rules if rule.how == "substring" and not rule.format for one in rule.patterns)

    def names_expert_numbers(self) -> bool:
        """Whether two experts of a layer can differ: a pattern speaks of their numbers."""
        return any(one.reads_expert_numbers for one in self.matchers)

    def names_layer(self, layer: int) -> bool:
        """Whether a pattern speaks of this layer by its number, or of multi-token prediction by name.

        Quantisers drop MTP layers that transformers does not build; one that a pattern names is in the checkpoint.
        """
        wanted = re.compile(rf"(?<!\d){layer}(?!\d)|\bmtp\b|nextn|eh_proj|shared_head")
        return any(wanted.search(one) for rule in self.rules if rule.how != "class" for one in rule.patterns)


class _Matcher:
    """One rule, its patterns compiled."""

    def __init__(self, rule: Rule) -> None:
        self.format = rule.format
        self._how = rule.how
        self._patterns = rule.patterns
        # Checkpoints that keep the text model outside `model` name their layers without it.
        bare = (f"model.{one}" for one in rule.patterns if rule.how == "exact" and one.startswith("layers."))
        self._set = frozenset((*rule.patterns, *bare))
        texts = tuple(translate(one) for one in rule.patterns) if rule.how == "glob" else rule.patterns
        self._compiled = tuple(re.compile(one) for one in texts) if rule.how in ("regex", "search", "glob") else ()
        self.reads_expert_numbers = any(_reads_expert_numbers(one, rule.how) for one in rule.patterns)

    def matches(self, names: tuple[str, ...], module_class: ModuleClass) -> bool:
        if self._how == "class":
            return module_class in self._set
        return any(self._matches_name(name) for name in names)

    def _matches_name(self, name: str) -> bool:
        if self._how == "exact":
            return name in self._set
        if self._how == "component":
            return not self._set.isdisjoint(_runs(name))
        if self._how == "substring":
            return any(one in name for one in self._patterns)
        if self._how == "search":
            return any(one.search(name) is not None for one in self._compiled)
        return any(one.match(name) is not None for one in self._compiled)


def _reads_expert_numbers(pattern: str, how: Match) -> bool:
    """Whether a pattern can tell two experts of a layer apart: it holds a number beside the layer's."""
    if how == "class":
        return False
    rest = _EXPERT_NUMBER.sub("", _LAYER_NUMBER.sub("", pattern))
    return re.search(r"\d|\\d|\[" if how in ("regex", "search", "glob") else r"\d", rest) is not None


def _spellings(module: str) -> tuple[str, ...]:
    """Return the names under which a checkpoint may know a module."""
    bare = module.removeprefix("model.")
    if not bare.startswith(("layers.", "embed_tokens", "norm")):
        return (module,)
    return tuple(dict.fromkeys((module, *(wrapper + bare for wrapper in _WRAPPERS))))


def _runs(name: str) -> set[str]:
    """Return every run of whole parts of a dotted name."""
    parts = name.split(".")[:16]
    return {".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}


def regex_problem(pattern: str) -> str | None:
    """Return why a regular expression of a configuration is not used, or None where it is.

    Configurations come from anywhere, and Python's matcher has no time limit: what may take exponential time is
    refused.
    """
    if len(pattern) > MAX_REGEX:
        return f"longer than {MAX_REGEX} characters"
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"no valid regular expression ({error})"
    if _NESTED_REPEAT.search(pattern) or len(re.findall(r"(?<!\\)[*+]", pattern)) > _MAX_REPEATS:
        return "repeats within repeats, which can take unbounded time to match"
    return None


def sorted_patterns(
    patterns: Iterable[object], *, plain: Match, problems: list[str], key: str
) -> dict[Match, tuple[str, ...]]:
    """Sort the entries of a list by how they are compared: `re:` ones, ones with wildcards, and the rest as `plain`.

    What is no text, or an expression that cannot be used, is added to `problems`.
    """
    found: dict[Match, list[str]] = {}
    for number, one in enumerate(patterns):
        if number >= MAX_PATTERNS:
            problems.append(f"{key} has more than {MAX_PATTERNS} entries; the rest is not read")
            break
        if not isinstance(one, str):
            problems.append(f"{key} holds {str(one)[:60]!r}, which is no module name")
        elif one.startswith("re:"):
            wrong = regex_problem(one[3:])
            if wrong:
                problems.append(f"{key} holds {one[:60]!r}: {wrong}")
            else:
                found.setdefault("regex", []).append(one[3:])
        elif plain != "exact" and any(letter in one for letter in "*?["):
            found.setdefault("glob", []).append(one)
        elif one:
            found.setdefault(plain, []).append(one)
    return {how: tuple(dict.fromkeys(names)) for how, names in found.items()}
