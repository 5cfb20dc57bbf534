"""What ``ftreg train`` and ``ftreg run`` print: figures, steps left out, what to type next, what was published."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftreg.registry import Registry
from tests.cli.walk import parse
from tests.command import ftreg, python
from tests.plugins.fakes import distribution

STOP = """
@hookimpl
def ftreg_steps():
    return [StepSpec(name="stop", summary="Is interrupted.", impl="stopping:apply", accepts=("adapter",))]


def apply(job):
    raise KeyboardInterrupt
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[..., Path]) -> Path:
    """A folder with data, recipes, a plugin whose step is interrupted, and a registry with a trained adapter."""
    folder = tmp_path_factory.mktemp("training")
    rows = [{"prompt": f"question {i}", "response": f"answer {i}"} for i in range(20)]
    (folder / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    distribution(folder / "site", "fake-stop", {"stopping": STOP})
    recipe = f"name: bot\nbase: {model_folder()}\ndata: faq.jsonl\ntrain: {{max_steps: 2}}\nlora: {{rank: 2}}\n"
    (folder / "recipe.yaml").write_text(f"{recipe}then: [merge, quantize]\n")
    (folder / "stop.yaml").write_text(f"{recipe}then: [merge, stop]\n")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> str:
    """What ``ftreg train`` printed for a recipe with steps."""
    return ftreg("train", "recipe.yaml", "--set", "train.seed=1", home=folder / "home", cwd=folder).stdout


def test_train_prints_figures_and_the_next_commands(trained: str, folder: Path) -> None:
    """The losses, the picture of the curves, the steps that were left out, and commands that can be typed."""
    assert "2 steps, training loss " in trained
    assert ", validation loss " in trained
    plot = trained.split("loss curves: ")[1].splitlines()[0]
    assert Path(plot).is_file()
    commands = dict(line.strip().split("  ", 1) for line in trained.split("Next:\n")[1].splitlines())
    assert "left out: merge, quantize" in commands["ftreg run recipe.yaml --set train.seed=1"]
    assert list(commands)[1:] == ["ftreg eval bot:1", "ftreg merge bot:1", "ftreg serve bot:1"]
    for command in commands:
        parse(command)


def test_json_has_the_same_facts(trained: str, folder: Path) -> None:
    """The figures, what was left out, and the next commands; the same recipe again makes the same version."""
    done = ftreg("train", "recipe.yaml", "--set", "train.seed=1", "--json", home=folder / "home", cwd=folder)
    facts = json.loads(done.stdout)
    assert facts["ref"] == "bot:1"
    assert facts["left_out"] == ["merge", "quantize"]
    assert facts["next"][0] == "ftreg run recipe.yaml --set train.seed=1"
    assert f"training loss {facts['training']['loss']:.4f}" in trained
    assert facts["training"]["best_validation_loss"] <= facts["training"]["validation_loss"]
    assert facts["training"]["best_step"] in (1, 2)
    assert Path(facts["training"]["plot"]).is_file()


def test_an_interrupt_says_what_was_published(trained: str, folder: Path) -> None:
    """Versions that were durable before the interrupt are named; the next run reuses them, and its JSON has figures."""
    program = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from ftreg.cli.main import main\n"
        "main(sys.argv[2:])\n"
    )  # fmt: skip
    installed = functools.partial(python, program, folder / "site", home=folder / "other", cwd=folder)
    stopped = installed("run", "stop.yaml")
    assert stopped.returncode == 130
    assert "interrupted; published before that: " in stopped.stderr
    assert "bot:1" in stopped.stderr
    assert "bot-merged:1" in stopped.stderr
    with Registry(folder / "other") as registry:
        assert registry.get("bot-merged").number == 1
    facts = json.loads(ftreg("run", "recipe.yaml", "--accept", "--json", home=folder / "other", cwd=folder).stdout)
    assert [fact["ref"] for fact in facts] == ["bot:1", "bot-merged:1", "bot-merged-quantized:1"]
    assert facts[0]["training"]["steps"] == 2
    again = installed("apply", "stop", "bot:1")
    assert again.returncode == 130
    assert "interrupted; nothing was published" in again.stderr


def test_an_adapter_is_merged_first_when_asked(trained: str, folder: Path) -> None:
    """Without --merge the message has the command; with it, both steps are done."""
    refused = ftreg("quantize", "bot:1", home=folder / "home", cwd=folder, code=2)
    assert "ftreg merge bot:1; or add --merge to do both" in " ".join(refused.stderr.split())
    done = ftreg("quantize", "bot:1", "--merge", "--accept", "--json", home=folder / "home", cwd=folder)
    assert json.loads(done.stdout)["ref"] == "bot-merged-quantized:1"
    with Registry(folder / "home") as registry:
        assert registry.get("bot-merged:1").kind == "checkpoint"


def test_an_interrupted_evaluation_speaks_of_figures(trained: str, folder: Path) -> None:
    """An evaluation publishes nothing anyway: what it loses are its figures, or those of the versions that are left."""
    program = (
        "import sys\n"
        "from ftreg.cli.main import main\n"
        "from ftreg.pipeline import evaluations\n"
        "original, refs = evaluations.evaluate_version, []\n"
        "def stopped(context, ref, *arguments, **options):\n"
        "    refs.append(ref)\n"
        "    if len(refs) == int(sys.argv[1]):\n"
        "        raise KeyboardInterrupt\n"
        "    return original(context, ref, *arguments, **options)\n"
        "evaluations.evaluate_version = stopped\n"
        "main(sys.argv[2:])\n"
    )
    said = {}
    for position in ("1", "2"):
        done = python(program, position, "compare", "bot:1", "bot", home=folder / "home", cwd=folder)
        said[position] = done.stderr.splitlines()[-1]
    assert said == {
        "1": "error: interrupted; no figures were recorded",
        "2": "error: interrupted; evidence recorded before that: bot:1",
    }


def test_a_dry_run_says_when_it_would_evaluate_save_and_stop(folder: Path) -> None:
    """Defaults are shown as what will happen, given settings in the same words, and no row is empty."""
    home = folder / "dry"
    shown = ftreg("train", "recipe.yaml", "--dry-run", home=home, cwd=folder).stdout
    rows = dict(line.split(None, 1) for line in shown.replace("early stopping", "stopping").splitlines()[1:])
    assert rows["evaluations"] == "every 10% of the steps"
    assert rows["checkpoints"] == "about every one to ten minutes"
    assert rows["stopping"] == "off"
    assert rows["left"].split() == ["out", "merge:", "bot", "->", "bot-merged", "(checkpoint)"]
    changes = ["train.eval_every=0.25", "train.save_every=50", "train.early_stopping_patience=3"]
    flags = [part for change in changes for part in ("--set", change)]
    facts = json.loads(ftreg("run", "recipe.yaml", "--dry-run", "--json", *flags, home=home, cwd=folder).stdout)
    assert facts["evaluations"] == "every 25% of the steps"
    assert facts["checkpoints"] == "every 50 steps"
    assert facts["early_stopping"] == "after 3 evaluations without a lower loss"
    assert len(facts["then"]) == 2
