"""The front door: what ``ftreg`` exports, and what its functions take, return and raise."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import ftreg
from ftreg.api import data, training
from ftreg.api.evaluation import Evaluation, MetricResult
from ftreg.core.errors import FtregError, InputError, RecipeError, UnknownName
from ftreg.core.types import AnsweredPrompt
from tests.registry.kit import publish

FUNCTIONS = [name for name in ftreg.__all__ if inspect.isfunction(getattr(ftreg, name))]


@pytest.fixture
def registry(tmp_path: Path) -> ftreg.Registry:
    """A registry with two versions of bot, made from a base."""
    registry = ftreg.Registry(tmp_path / "home")
    base = publish(registry, "base", {"a": b"base"})
    for number in (b"1", b"2"):
        publish(
            registry, "bot", {"a": number}, parents=[base], evidence=[("run", {"steps": 3, "final_training_loss": 0.5})]
        )
    registry.set_alias("bot:2", "champion")
    return registry


def test_what_is_exported() -> None:
    """All that the command line does can be imported from ftreg, and nothing else."""
    assert {"compare", "plan", "lineage", "promote", "rollback", "status", "card", "train", "run"} <= set(ftreg.__all__)
    assert {"Version", "PluginHost", "Registry", "FtregError"} <= set(ftreg.__all__)
    assert set(ftreg.__all__) <= set(dir(ftreg))
    with pytest.raises(AttributeError, match="nothing"):
        _ = ftreg.nothing


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented_and_typed(name: str) -> None:
    """Each has a docstring, types, and takes its options by keyword."""
    function = getattr(ftreg, name)
    assert function.__doc__
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(param.annotation is not inspect.Parameter.empty for param in signature.parameters.values())


def test_a_card_and_a_lineage(registry: ftreg.Registry) -> None:
    """What the command line prints, as values."""
    card = ftreg.card("bot@champion", registry=registry)
    assert (card["ref"], card["aliases"], card["parents"][0]["ref"]) == ("bot:2", ["champion"], "base:1")
    assert json.loads(json.dumps(card)) == card
    found = ftreg.lineage("bot:1", registry=registry)
    assert {version.ref for version in found.nodes.values()} == {"bot:1", "base:1"}


def test_values_are_shown_on_one_line(registry: ftreg.Registry) -> None:
    """A version and a lineage in an interactive session."""
    version = registry.get("bot:2")
    assert repr(version) == f"<Version bot:2 checkpoint {version.digest[:15]} @champion>"
    answers = [AnsweredPrompt("a question\n" * 40, "yes", "no")]
    exact = {"exact_match": MetricResult({"exact_match": 0.5}, [], {}, {})}
    evaluation = Evaluation(1.25, 3.5, 0.75, 9, 1, exact, {}, answers)
    shown = "loss=1.25 perplexity=3.5 token_accuracy=0.75 exact_match=0.5"
    assert repr(evaluation) == f"<Evaluation {shown} answers=1>"
    assert repr(registry.lineage("bot:1")) == "<Lineage of bot:1: 2 versions, 1 edges>"


def test_training_figures_come_from_the_run(registry: ftreg.Registry) -> None:
    """Of a version that a method made; None for any other."""
    figures = training.training_figures("bot:1", registry=registry)
    assert figures is not None
    assert (figures.steps, figures.loss, figures.validation_loss, figures.plot) == (3, 0.5, None, None)


def test_training_figures_are_those_of_the_name(registry: ftreg.Registry) -> None:
    """Of a run that was made again under another name, each name has the figures of its own run."""
    again = [("run", {"steps": 3, "final_training_loss": 0.25})]
    publish(registry, "again", {"a": b"1"}, parents=[registry.get("base")], evidence=again)
    assert registry.get("again").digest == registry.get("bot:1").digest
    figures = [training.training_figures(ref, registry=registry) for ref in ("bot:1", "again:1")]
    assert [found.loss for found in figures if found] == [0.5, 0.25]


def test_the_default_registry_is_closed_again(registry: ftreg.Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a registry the default one is used, and many calls leave no file open."""
    monkeypatch.setenv("FTREG_HOME", str(registry.home))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        ftreg.card("bot")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda r: ftreg.apply("merg", "bot", registry=r), UnknownName, "step: no step named 'merg'"),
        (lambda r: ftreg.quantize("bot", scheme="int3", registry=r), RecipeError, "quantize.scheme: must be"),
        (lambda r: ftreg.quantize("bot", name="A B", registry=r), InputError, "name: 'A B' cannot be a name"),
        (lambda r: ftreg.export("bot", to=r.home, registry=r), InputError, "to: "),
        (lambda r: ftreg.export("bot", to=r.home / "x", name="y", registry=r), InputError, "name: is for an export"),
        (lambda r: ftreg.evaluate("bot", registry=r), InputError, "Name a file or a dataset with `data`"),
        (lambda r: ftreg.evaluate("bot", "nope.jsonl", registry=r), InputError, "data: nope.jsonl"),
        (lambda r: ftreg.init("x", "nope.jsonl", registry=r), InputError, "data: nope.jsonl"),
        (lambda r: ftreg.plan({"base": "bot", "data": "x.jsonl", "lr": 1}, registry=r), RecipeError, "train.learning_"),
        (lambda r: ftreg.set_weights("bot", {"bot:1": 1}, url="nowhere", token="x"), InputError, "url: "),
        (lambda r: data.check("nope.jsonl"), InputError, "nope.jsonl"),
    ],
)  # fmt: skip
def test_errors_speak_of_arguments(
    call: Callable[[ftreg.Registry], object], error: type[FtregError], said: str, registry: ftreg.Registry
) -> None:
    """A message names the argument or the recipe's key, and no option of the command line."""
    with pytest.raises(error) as caught:
        call(registry)
    assert said in str(caught.value)
    assert "--" not in str(caught.value)
