"""``ftreg quickstart``: the whole chain on a tiny model, as the commands that a user would type."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from pathlib import Path

import click

import ftreg
from ftreg.cli.session import Session

FILES = ("data/support_faq.jsonl", "recipes/stdlib-base.yaml", "recipes/support-bot.yaml", "recipes/support-bot-2.yaml")


@click.command()
@click.option("--home", default="ftreg-quickstart", show_default=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder to work in; a finished one is gone through again, reusing what is there.")  # fmt: skip
@click.option("--smoke", is_flag=True, help="Train for a few steps only: the whole chain in a minute, and poor models.")
@click.pass_obj
def command(session: Session, home: Path, smoke: bool) -> None:
    """Run the whole chain, offline, on a tiny model: pre-train, fine-tune, merge, quantize, prune, export, verify.

    Takes under ten minutes on two CPU cores. Every step is shown as the command that does it.
    """
    started = time.monotonic()
    shown, home = home, home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    (home / ".ftreg").mkdir(exist_ok=True)
    examples = _examples_folder()
    for file in FILES:
        target = home / file
        target.parent.mkdir(exist_ok=True)
        if not target.exists():  # an edited recipe stays as it is
            shutil.copyfile(examples / file, target)
    few = ["--set", "train.max_steps=12"] if smoke else []
    accept = ["--accept"] if smoke else []
    with contextlib.chdir(home):
        act = _Act(session)
        act.say("1. A base model, from nothing: a tokenizer and a Llama, pre-trained on Python's own documentation")
        act.run("data", "stdlib", "data/stdlib.jsonl")
        act.run("init", "stdlib-init", "--data", "data/stdlib.jsonl", *BASE_SETTINGS)
        act.run("run", "recipes/stdlib-base.yaml", *few)

        act.say("2. Two fine-tuned versions of it, for customer support")
        act.run("data", "check", "data/support_faq.jsonl")
        act.run("run", "recipes/support-bot.yaml", *few)
        act.run("run", "recipes/support-bot-2.yaml", *few)

        act.say("3. The second one merged, quantized, pruned and exported; each result is measured against its source")
        act.run("merge", "support-bot:2")
        act.run("quantize", "support-bot-merged", "--scheme", "int8", *accept)
        act.run("prune", "support-bot-merged", "--sparsity", "0.2", *accept)
        act.run("export", "support-bot-merged", "--format", "onnx", *accept)

        act.say("4. What was gained, what there is, and where it came from")
        act.run("compare", "stdlib-base:1", "support-bot:1", "support-bot:2")
        act.run("models", "alias", "support-bot:2", "champion")
        act.run("models", "list")
        act.run("lineage", "support-bot-merged-onnx")
        act.run("verify")
        _farewell(session, shown, home, time.monotonic() - started)


BASE_SETTINGS = [
    "--set", "vocab_size=4096",
    "--set", "hidden_size=256",
    "--set", "layers=4",
]  # fmt: skip


class _Act:
    """Runs commands as ``ftreg`` would, and shows each before it runs."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._out = session.out

    def say(self, text: str) -> None:
        """Announce what comes next."""
        self._out.print(f"\n[bold]{text}[/]")

    def run(self, *arguments: str) -> None:
        """Show a command, run it, and say how long it took."""
        from ftreg.cli.main import cli

        self._out.print(f"\n[bold cyan]$ ftreg {shlex.join(arguments)}[/]", highlight=False)
        started = time.monotonic()
        session = Session()
        session.home, session.disabled_plugins = ".ftreg", self._session.disabled_plugins
        try:
            cli.main(list(arguments), prog_name="ftreg", standalone_mode=False, obj=session)
        finally:
            session.close()
        self._out.print(f"[dim]{time.monotonic() - started:.1f} s[/]")


def _examples_folder() -> Path:
    """Where the example data and recipes are: in the package, or beside it in a checkout."""
    package = Path(ftreg.__file__).parent
    inside = package / "examples"
    return inside if inside.is_dir() else package.parent / "examples"


def _farewell(session: Session, home: Path, folder: Path, seconds: float) -> None:
    """Say what was made and what to type next; ``home`` is how the user names ``folder``."""
    session.out.print(
        f"\n[bold]Done in {seconds / 60:.1f} minutes.[/] Everything is in {folder}\n"
        f"  registry        {folder / '.ftreg'}\n"
        f"  recipes, data   {folder / 'recipes'}, {folder / 'data'}\n"
        "\nNext:\n"
        f"  cd {home}\n"
        "  ftreg models show support-bot@champion     what is it made of\n"
        "  ftreg models log                           who did what, when\n"
        "  ftreg export support-bot-merged-onnx --to onnx-model    take it elsewhere, as plain files\n"
        "  ftreg train recipes/support-bot.yaml --set lora.rank=64    change something and train again\n"
    )
