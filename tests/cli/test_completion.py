"""Completion: what can follow, as a shell asks for it, without a heavy library and without creating a registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from ftreg.cli.main import cli, main
from ftreg.cli.session import Session
from ftreg.registry import Registry
from tests.plugins.test_startup import HEAVY
from tests.registry.kit import publish

Complete = Callable[..., list[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A registry with two versions of bot, one with an alias, and a base."""
    with Registry(tmp_path / "home") as registry:
        for name in ("base", "bot", "bot"):
            publish(registry, name, {"a": f"{name}{registry.count()}".encode()})
        registry.set_alias("bot:2", "champion")
    return tmp_path / "home"


@pytest.fixture
def complete(home: Path) -> Complete:
    """What can be typed next: the words so far, the last of which may be the beginning of one."""

    def words(*typed: str) -> list[str]:
        completion = ShellComplete(cli, {"obj": Session()}, "ftreg", "_FTREG_COMPLETE")
        *before, incomplete = typed
        return [item.value for item in completion.get_completions(["--home", str(home), *before], incomplete)]

    return words


def test_references(complete: Complete) -> None:
    """Names, aliases and numbers, in every place that takes a version."""
    assert complete("models", "show", "") == ["bot", "base", "bot@champion", "bot:2", "bot:1", "base:1"]
    assert complete("merge", "bot:") == ["bot:2", "bot:1"]
    assert complete("compare", "base:1", "bot@") == ["bot@champion"]
    assert complete("deploy", "x", "--variant", "bas") == ["base", "base:1"]
    assert complete("merge", "bot:1", "--with", "base:1=") == []
    assert complete("train", "--base", "bas") == ["base", "base:1"]
    assert complete("distill", "base:1", "--teacher", "bas") == ["base", "base:1"]


def test_every_reference_argument_completes() -> None:
    """Each argument called REF or REFS, and each option that takes one, has a completer."""
    from tests.cli.walk import commands

    for path, command in commands():
        for param in command.params:
            if param.name in ("ref", "refs", "variants", "shadows", "others"):
                assert param._custom_shell_complete is not None, f"{path} {param.name}"


def test_plugins(complete: Complete) -> None:
    """Methods, steps, engines and formats by name."""
    assert complete("train", "--method", "") == ["full", "lora", "prefix", "qlora"]
    assert complete("apply", "qu") == ["quantize"]
    assert complete("eval", "bot", "--engine", "t") == ["transformers"]
    assert complete("data", "check", "x.jsonl", "--format", "in") == ["instruction"]
    assert complete("plugins", "info", "qlo") == ["qlora"]


def test_settings(complete: Complete, tmp_path: Path) -> None:
    """The keys of the recipe, of its method or of the step; and the values, where there is a list of them."""
    assert complete("train", "--set", "train.opt") == ["train.optimizer="]
    assert complete("train", "--set", "train.optimizer=a") == ["train.optimizer=adamw", "train.optimizer=adafactor"]
    assert "lora.rank=" in complete("train", "--set", "lora.")
    assert "prefix.num_virtual_tokens=" in complete("train", "--method", "prefix", "--set", "prefix.")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: qlora\n")
    assert "qlora.rank=" in complete("run", str(recipe), "--set", "qlora.")
    assert complete("distill", "bot", "--set", "objective.distillation.te") == [
        "objective.distillation.teacher=",
        "objective.distillation.temperature=",
    ]
    assert complete("quantize", "bot", "--set", "sch") == ["scheme="]
    assert complete("apply", "prune", "bot", "--set", "spars") == ["sparsity="]
    assert complete("data", "check", "x.jsonl", "--set", "group") == ["group_by="]
    assert complete("settings", "dep") == ["deployment"]
    assert complete("settings", "rou") == ["rouge"]
    assert complete("eval", "bot", "--metric", "ro") == ["rouge"]
    assert complete("eval", "bot", "--metric", "rouge", "--set", "") == ["rouge.stemmer="]
    assert complete("compare", "bot", "--metric", "bleu", "--set", "bleu.tokenize=i") == ["bleu.tokenize=intl"]


def test_completing_is_light_and_creates_nothing(tmp_path: Path) -> None:
    """Neither torch nor what it brings is imported, and the registry that is not there yet stays so."""
    probe = (
        "import sys, atexit\n"
        f"atexit.register(lambda: sys.stderr.write(repr(sorted({HEAVY!r} & set(sys.modules)))))\n"
        "from ftreg.cli.main import main; main()"
    )
    for line in ("ftreg models show b", "ftreg train --set lora.", "ftreg apply "):
        done = subprocess.run(
            [sys.executable, "-c", probe],
            env={
                **os.environ,
                "FTREG_HOME": str(tmp_path / "none"),
                "_FTREG_COMPLETE": "bash_complete",
                "COMP_WORDS": line,
                "COMP_CWORD": str(len(line.split(" ")) - 1),
            },
            capture_output=True,
            text=True,
        )
        assert done.stderr == "[]", done.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the command and the variable by which the shell asks."""
    with pytest.raises(SystemExit) as end:
        main(["completion", shell])
    script = capsys.readouterr().out
    assert not end.value.code
    assert f"_FTREG_COMPLETE={shell}_complete" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_reference(home: Path, tmp_path: Path) -> None:
    """In a real bash, which splits words at a colon unless it is told not to."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    command = bin_folder / "ftreg"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ftreg "$@"\n')
    command.chmod(0o755)
    asked = (
        'eval "$(ftreg completion bash)"; echo "breaks: $COMP_WORDBREAKS"; '
        'COMP_WORDS=(ftreg models show bot:); COMP_CWORD=3; _ftreg_completion ftreg; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-i", "-c", asked],
        env={**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "FTREG_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    breaks, _, replies = done.stdout.partition("\nbot")
    assert "breaks: " in breaks
    assert ":" not in breaks.partition("breaks: ")[2]
    assert f"bot{replies}".split() == ["bot:2", "bot:1"], done.stderr


def test_custom_commands_without_completers_still_complete(complete: Complete) -> None:
    """Commands and options complete as click does it."""
    assert "models" in complete("mod")
    assert "--json" in complete("models", "list", "--j")
    assert isinstance(cli, click.Group)
