"""Answers of the selector, one by one: only what was never asked is asked, and what broke is asked again."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dsa_doctor.cache import Keeper, Store, Trace
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Selector, SelectorAnswer, SelectorQuery, ServeOption, ServeOptions
from dsa_doctor.probes import kept, selector
from dsa_doctor.probes.environment import Environment

OPTIONS = ServeOptions(options=(ServeOption(names=("--port",)),))


class Vllm:
    """Stands in for the child that imports vLLM, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], bool]] = []
        self.broken: set[str] = set()
        self.options: Observation[ServeOptions] = Observation[ServeOptions].ok(OPTIONS)
        self.fails = False

    def probe(
        self, environment: Environment, queries: Sequence[SelectorQuery], *, trace: Trace, serve_options: bool, **_: Any
    ) -> tuple[Observation[Selector], Observation[str]]:
        self.asked.append(([one.capability for one in queries], serve_options))
        if self.fails:
            trace.broke = True
            return Observation[Selector].unknown("timed out"), Observation[str].unknown("timed out")
        answers = tuple(
            SelectorAnswer(
                query=one, chosen=f"FOR_{one.capability}", candidates=(), broke=one.capability in self.broken
            )
            for one in queries
        )
        told = self.options if serve_options else None
        return (
            Observation[Selector].ok(Selector(answers=answers, flashinfer_usable=True, serve_options=told)),
            Observation[str].ok("0.33.0"),
        )


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Vllm:
    stand_in = Vllm()
    monkeypatch.setattr(selector, "probe", stand_in.probe)
    return stand_in


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    (tmp_path / "site" / "vllm").mkdir(parents=True)
    return Environment(python=Path(sys.executable), search_path=(tmp_path / "site",))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "answers")


def query(capability: str) -> SelectorQuery:
    return SelectorQuery(
        capability=capability, head_size=576, num_heads=8, dtype="bfloat16", kv_cache_dtype="auto", block_size=None
    )


def ask(
    store: Store, environment: Environment, *capabilities: str, serve_options: bool = False
) -> Observation[Selector]:
    """Ask as a run of its own would."""
    questions = [query(one) for one in capabilities]
    observed, imported = kept.kept_selector(Keeper(store), environment, questions, serve_options=serve_options)
    if observed.value is not None:
        assert [one.query for one in observed.value.answers] == questions
        assert [one.chosen for one in observed.value.answers] == [f"FOR_{one}" for one in capabilities]
        assert imported.value == "0.33.0"
        assert observed.value.flashinfer_usable is True
    return observed


def test_only_what_was_never_asked_is_asked(vllm: Vllm, environment: Environment, store: Store) -> None:
    assert ask(store, environment, "8.0").kept_from is None
    assert ask(store, environment, "8.0").kept_from is not None
    mixed = ask(store, environment, "9.0", "8.0", "10.0", "9.0")
    assert mixed.kept_from is not None
    assert ask(store, environment, "10.0", "9.0").kept_from is not None
    assert vllm.asked == [(["8.0"], False), (["9.0", "10.0"], False)]


def test_the_oldest_part_says_from_when_it_all_is(vllm: Vllm, environment: Environment, store: Store) -> None:
    ask(store, environment, "8.0")
    first = ask(store, environment, "8.0").kept_from
    ask(store, environment, "9.0")
    assert ask(store, environment, "9.0").kept_from == first


def test_options_are_asked_once_and_kept(vllm: Vllm, environment: Environment, store: Store) -> None:
    ask(store, environment, "8.0")
    for _ in range(2):
        observed = ask(store, environment, "8.0", serve_options=True)
        assert observed.value is not None
        assert observed.value.serve_options == Observation[ServeOptions].ok(OPTIONS)
    more = ask(store, environment, "9.0", serve_options=True)
    assert more.value is not None
    assert more.value.serve_options is not None
    assert more.value.serve_options.value == OPTIONS
    without = ask(store, environment, "8.0")
    assert without.value is not None
    assert without.value.serve_options is None
    assert vllm.asked == [(["8.0"], False), ([], True), (["9.0"], False)]


def test_a_parser_that_could_not_be_built_is_asked_again(vllm: Vllm, environment: Environment, store: Store) -> None:
    vllm.options = Observation[ServeOptions].unknown("moved")
    for _ in range(2):
        observed = ask(store, environment, "8.0", serve_options=True)
        assert observed.value is not None
        assert observed.value.serve_options is not None
        assert observed.value.serve_options.cause == "moved"
    assert vllm.asked == [(["8.0"], True), ([], True)]


def test_a_question_that_broke_is_asked_again(vllm: Vllm, environment: Environment, store: Store) -> None:
    vllm.broken = {"9.0"}
    ask(store, environment, "8.0", "9.0")
    ask(store, environment, "8.0", "9.0")
    assert vllm.asked == [(["8.0", "9.0"], False)] * 2


def test_a_failure_costs_nothing_of_what_is_kept(vllm: Vllm, environment: Environment, store: Store) -> None:
    ask(store, environment, "8.0")
    vllm.fails = True
    assert ask(store, environment, "8.0", "9.0").status == "unknown"
    assert ask(store, environment, "8.0").kept_from is not None


def test_answers_with_plugins_are_others(vllm: Vllm, environment: Environment, store: Store) -> None:
    ask(store, environment, "8.0")
    kept.kept_selector(Keeper(store), environment, [query("8.0")], plugins=("dsa_doctor",))
    assert len(vllm.asked) == 2


def test_without_a_keeper_everything_is_asked(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(selector, "probe", lambda *given, **options: asked.append((given, options)))
    kept.kept_selector(None, environment, [query("8.0")])
    assert asked == [((environment, [query("8.0")]), {"serve_options": False})]
