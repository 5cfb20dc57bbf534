"""A third-party distribution with every kind of plugin: working, and broken in every way a contract can be broken."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftreg.api import evaluation, steps, training
from ftreg.core.errors import FtregError, PluginError
from ftreg.core.host import PluginHost
from ftreg.registry import Registry
from tests.command import ftreg
from tests.plugins.fakes import distribution, environment

WHOLE = """
import shutil

import click
import numpy as np


class Settings(Config):
    factor: float = 1.0


def copy(folder, staging):
    for path in folder.iterdir():
        shutil.copyfile(path, staging / path.name)


def train(job):
    copy(job.base, job.staging)
    return Artifact(kind="checkpoint", facts={"factor": job.config.factor})


def same(job):
    copy(job.source.path, job.staging)
    return Artifact(kind="checkpoint")


class Flat:
    def __init__(self, source, device):
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(source.path)

    def logits(self, batch, *, last=None):
        return [np.zeros((min(len(row), last or len(row)), len(self.tokenizer)), np.float32) for row in batch]

    def generate(self, batch, *, max_new_tokens):
        return [[] for row in batch]

    def close(self):
        pass


class Pairs:
    def matches(self, row):
        return "left" in row

    def convert(self, row):
        return Example(messages=(Message("user", row["left"]), Message("assistant", row["right"])))


class HalfSettings(Config):
    of: float = 1.0


def half(job):
    return job.config.of / 2


@click.command()
def greet():
    click.echo("greetings")


@hookimpl
def ftreg_methods():
    return [
        MethodSpec(
            name="copy", summary="s", impl=f"{__name__}:train", config=f"{__name__}:Settings",
            capabilities=frozenset({FULL_PRECISION}),
        )
    ]


@hookimpl
def ftreg_steps():
    return [StepSpec(name="same", summary="s", impl=f"{__name__}:same", suffix="same")]


@hookimpl
def ftreg_engines():
    return [EngineSpec(name="flat", summary="s", impl=f"{__name__}:Flat")]


@hookimpl
def ftreg_formats():
    return [FormatSpec(name="pairs", summary="s", impl=f"{__name__}:Pairs", columns=("left", "right"))]


@hookimpl
def ftreg_metrics():
    settings = f"{__name__}:HalfSettings"
    return [MetricSpec(name="half", summary="s", impl=f"{__name__}:half", config=settings, default=True)]


@hookimpl
def ftreg_commands():
    return [CommandSpec(name="greet", summary="s", impl=f"{__name__}:greet")]


@hookimpl
def ftreg_check_version(version):
    return []


@hookimpl
def ftreg_version_created(version):
    pass
"""

_numbers = itertools.count()

Open = Callable[..., Registry]


@pytest.fixture
def open_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return a function that installs the distribution, with changes to its source, and opens a registry."""

    def install(old: str = "", new: str = "") -> Registry:
        assert old in WHOLE
        name = f"thing{next(_numbers)}"  # modules are imported once in a process
        site = distribution(tmp_path / "site", "fake-everything", {name: WHOLE.replace(old, new)}, version="2.1")
        monkeypatch.syspath_prepend(str(site))
        return Registry(tmp_path / "home", host=PluginHost())

    return install


@pytest.fixture
def recipe(tmp_path: Path, model_folder: Callable[..., Path]) -> dict:
    """Make a recipe for the distribution's method, with data in its format."""
    rows = [{"left": f"question {number}", "right": f"answer {number}"} for number in range(10)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"path": str(path), "validation": 0.0, "test": 0.5}
    return {"name": "thing", "base": str(model_folder()), "data": data, "method": "copy"}


def test_all_of_it_works(open_with: Open, recipe: dict) -> None:
    """Method, format, step, engine, metric and gate of the distribution all work together."""
    registry = open_with()
    version, step = training.run({**recipe, "copy": {"factor": 2}, "then": ["same"]}, registry=registry)
    assert version.manifest.facts == {"factor": 2.0}
    assert version.manifest.producer.distribution == "fake-everything"
    assert version.manifest.capabilities == ("full-precision",)
    assert (step.ref, step.kind) == ("thing-same:1", "checkpoint")
    assert evaluation.evaluate(step.ref, registry=registry).figures["half"] == 0.5
    assert evaluation.evaluate(step.ref, settings={"half.of": 3}, registry=registry).figures["half"] == 1.5
    assert [gate.distribution for gate in registry.gates()] == ["fake-everything"]


BROKEN_METHODS = {
    "exits": ("    copy(job.base, job.staging)\n", "    raise SystemExit(0)\n", "train raised SystemExit: 0"),
    "raises": ("    copy(job.base, job.staging)\n", "    1 / 0\n", "train raised ZeroDivisionError: division by zero"),
    "returns nothing": (
        'return Artifact(kind="checkpoint", facts={"factor": job.config.factor})',
        "return None",
        "train returned NoneType, not Artifact",
    ),
    "another kind": (
        'Artifact(kind="checkpoint", facts',
        'Artifact(kind="onnx", facts',
        "method copy: its spec says that it produces 'checkpoint', but it produced 'onnx'",
    ),
    "no files": ("    copy(job.base, job.staging)\n", "", "it wrote no files into job.staging"),
    "files that are not a model": (
        "    copy(job.base, job.staging)\n",
        '    (job.staging / "model.safetensors").write_bytes(b"x")\n',
        "what it wrote cannot be loaded as checkpoint: engine transformers",
    ),
    "cut weights": (
        "    copy(job.base, job.staging)\n",
        "    copy(job.base, job.staging)\n    file = job.staging / 'model.safetensors'\n"
        "    file.write_bytes(file.read_bytes()[:-9])\n",
        "what it wrote cannot be loaded as checkpoint: engine transformers",
    ),
    "not a number": (
        '{"factor": job.config.factor}',
        "{\"factor\": float('nan')}",
        "its Artifact is malformed: facts cannot be written as JSON",
    ),
    "a list of capabilities": (
        'facts={"factor": job.config.factor}',
        'capabilities=["mergeable"]',
        "its Artifact is malformed: capabilities ['mergeable'] is not a frozenset of str",
    ),
    "settings that are not a model": (
        "class Settings(Config):",
        "class Settings:",
        "Settings is not a pydantic model",
    ),
    "settings that raise": (
        "    factor: float = 1.0\n",
        "    factor: float = 1.0\n    def model_post_init(self, context):\n        raise RuntimeError('odd')\n",
        "Settings raised RuntimeError: odd",
    ),
    "an implementation that is not there": ('impl=f"{__name__}:train"', 'impl=f"{__name__}:gone"', "has no attribute"),
    "a format that returns a string": (
        '        return Example(messages=(Message("user", row["left"]), Message("assistant", row["right"])))',
        '        return row["left"]',
        "Pairs.convert, on ",
    ),
    "a format that raises": ('row["right"]', 'row["middle"]', "raised KeyError: 'middle'"),
    "a format that does not say yes or no": (
        'return "left" in row',
        "return 'yes'",
        "matches returned 'yes', not",
    ),
    "a format that cannot be made": (
        "    def matches(self, row):",
        "    def __init__(self):\n        raise OSError('no licence')\n    def matches(self, row):",
        "raised OSError: no licence",
    ),
}


@pytest.mark.parametrize("case", BROKEN_METHODS)
def test_a_broken_method_or_format_is_named(case: str, open_with: Open, recipe: dict) -> None:
    """For a broken method or format, the error names plugin, distribution and version, and nothing is published."""
    old, new, said = BROKEN_METHODS[case]
    registry = open_with(old, new)
    with pytest.raises(PluginError) as caught:
        training.train(recipe, registry=registry)
    text = str(caught.value)
    assert said in text
    assert "(fake-everything 2.1)" in text
    assert "Report it to the authors of fake-everything" in text
    assert "defect of ftreg" not in text
    assert registry.count() == 0
    assert not list((registry.home / "tmp").iterdir())


BROKEN_STEPS = {
    "raises": ("    copy(job.source.path, job.staging)\n", "    raise TypeError('no')\n", "same raised TypeError: no"),
    "another kind": (
        '    copy(job.source.path, job.staging)\n    return Artifact(kind="checkpoint")',
        "    (job.staging / 'a').write_bytes(b'x')\n    return Artifact(kind=\"onnx\")",
        "step same: its spec says that it produces 'checkpoint', but it produced 'onnx'",
    ),
    "a tolerance that is a number": (
        '    copy(job.source.path, job.staging)\n    return Artifact(kind="checkpoint")',
        '    copy(job.source.path, job.staging)\n    return Artifact(kind="checkpoint", tolerance=0.1)',
        "tolerance 0.1 is not a Tolerance",
    ),
}


@pytest.mark.parametrize("case", BROKEN_STEPS)
def test_a_broken_step_is_named(case: str, open_with: Open, recipe: dict) -> None:
    """For a broken step, the error names plugin, distribution and version, and nothing is published."""
    old, new, said = BROKEN_STEPS[case]
    registry = open_with(old, new)
    trained = training.train(recipe, registry=registry)
    with pytest.raises(PluginError) as caught:
        steps.apply("same", trained.ref, registry=registry)
    assert said in str(caught.value)
    assert "(fake-everything 2.1)" in str(caught.value)
    assert [version.name for version in registry.list(kind="checkpoint")] == ["thing", registry.list()[-1].name]


BROKEN_ENGINES = {
    "cannot be loaded": (
        "        from transformers import",
        "        1 / 0\n        from transformers import",
        "Flat raised",
    ),
    "has no tokenizer": ("self.tokenizer = AutoTokenizer", "self.words = AutoTokenizer", "raised AttributeError"),
    "gives logits of another length": (
        "(min(len(row), last or len(row)), len(self.",
        "(1, len(self.",
        "logits returned arrays",
    ),
    "raises": ("return [np.zeros", "return [np.no_such", "Flat.logits raised AttributeError"),
    "gives too few answers": (
        "return [[] for row in batch]",
        "return [[]]",
        "generate returned 1 answers to 5",
    ),
    "gives no answers": ("return [[] for row in batch]", "return None", "Flat.generate returned NoneType, not list"),
    "cannot be closed": (
        "    def close(self):\n        pass",
        "    def close(self):\n        exit(3)",
        "raised SystemExit",
    ),
}


@pytest.mark.parametrize("case", BROKEN_ENGINES)
def test_a_broken_engine_is_named(case: str, open_with: Open, recipe: dict) -> None:
    """For an engine that breaks when it is loaded, used or closed, the error names the plugin and the function."""
    old, new, said = BROKEN_ENGINES[case]
    registry = open_with(old, new)
    trained = training.train(recipe, registry=registry)
    with pytest.raises(PluginError) as caught:
        evaluation.evaluate(trained.ref, engine="flat", registry=registry)
    assert said in str(caught.value)
    assert "(fake-everything 2.1)" in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("float('nan')", "it returned nan, which is not a finite number"),
        ("'good'", "it returned 'good', which is not a finite number"),
        ("True", "it returned True, which is not a finite number"),
        ("1 / 0", "half raised ZeroDivisionError"),
        ("exit(0)", "half raised SystemExit: 0"),
        ("{}", "it returned no figure"),
        ("{'a': 1.0, 'b': None}", "its figure 'b' is None, which is not a finite number"),
        ("{3: 1.0}", "3 is not a name for a figure"),
        ("Scores(0.5)", "half raised AttributeError"),
        ("Scores({'a': 1}, [[1]])", "it returned list as a table, not Table"),
        ("Scores({'a': 1}, [Table('t', ['x', 'y'], [[1]])])", "has 2 columns, and a row of 1 cells"),
        ("Scores({'a': 1}, examples={'a': [1, 1]})", "has 2 scores for 5 answers"),
        ("Scores({'a': 1}, examples={'a': [2] * 5})", "is not the mean of the scores"),
        ("Scores({'a': 1}, [Table('t', ['x'], [[job]])])", "which is not JSON"),
    ],
)
def test_a_broken_metric_costs_its_own_figure(returned: str, said: str, open_with: Open, recipe: dict) -> None:
    """If a metric fails, the evaluation reports why, and has all other metrics."""
    registry = open_with("return job.config.of / 2", f"return {returned}")
    trained = training.train(recipe, registry=registry)
    found = evaluation.evaluate(trained.ref, registry=registry)
    assert set(found.metrics) == {"exact_match", "token_f1", "length"}
    assert said in found.failed_metrics["half"]
    (record,) = [record for record in registry.evidence(trained.ref) if record.type == "evaluation"]
    assert "half" not in record.body["metrics"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('click.echo("greetings")', "1 / 0", "command greet: it raised ZeroDivisionError: division by zero"),
        ("@click.command()\ndef greet", "def greet", "greet is a function, not a click.Command"),
    ],
)
def test_a_broken_command_is_named(old: str, new: str, said: str, tmp_path: Path) -> None:
    """For a broken command, the error names its plugin, and the exit code is 1."""
    distribution(tmp_path / "whole", "fake-everything", {"whole": WHOLE})
    assert ftreg("greet", env=environment(tmp_path / "whole")).stdout == "greetings\n"
    distribution(tmp_path / "broken", "fake-everything", {"broken": WHOLE.replace(old, new)})
    failed = ftreg("greet", env=environment(tmp_path / "broken"), code=1)
    assert said in failed.stderr
    assert "plugin broken (fake-everything 1.0)" in failed.stderr
    assert "defect of ftreg" not in failed.stderr


def test_what_the_machine_lacks_is_not_the_plugins_fault(open_with: Open, recipe: dict) -> None:
    """A full disk during a method is reported as a full disk, not as the plugin's fault."""
    import errno

    registry = open_with(
        "    copy(job.base, job.staging)\n", f"    raise OSError({errno.ENOSPC}, 'No space left on device')\n"
    )
    with pytest.raises(FtregError, match="the disk is full"):
        training.train(recipe, registry=registry)


def test_a_slow_plugin_is_named_with_its_cost(tmp_path: Path) -> None:
    """A plugin that is slow to import is named once, with its cost and what to do, and the command still works."""
    busy = "import time\nwhile time.process_time() < 1.5:\n    pass\n"
    distribution(tmp_path, "fake-slow", {"slow": busy + WHOLE})
    done = ftreg("plugins", "list", env=environment(tmp_path))
    assert done.stderr.count("plugin slow (fake-slow 1.0) takes ") == 1
    assert "s of CPU to import, in every command" in done.stderr
