"""``ftreg quickstart``: the whole chain on a tiny model, as the commands that a user would type."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import time
from pathlib import Path

import click

import ftreg
from ftreg.cli.command import Command
from ftreg.cli.session import Session
from ftreg.core.extras import require_extras

FILES = ("data/support_faq.jsonl", "recipes/stdlib-base.yaml", "recipes/support-bot.yaml", "recipes/support-bot-2.yaml")


@click.command(cls=Command, examples=["ftreg quickstart", "ftreg quickstart --smoke --folder try"])
@click.option("--folder", default="ftreg-quickstart", show_default=True,
              type=click.Path(path_type=Path, file_okay=False),
              help="Folder to work in; in a finished one, everything is reused.")  # fmt: skip
@click.option(
    "--smoke", is_flag=True, help="Train for a few steps only: the whole chain in a minute, with poor models."
)
@click.pass_obj
def command(session: Session, folder: Path, smoke: bool) -> None:
    """Run the whole chain, offline, on a tiny model: pre-train, fine-tune, merge, quantize, prune, export, serve.

    Takes five to six minutes on two quiet CPU cores. Every step is shown as the command that does it.
    """
    require_extras("ftreg quickstart", "train", "onnx", "serve")
    started = time.monotonic()
    shown, home = folder, folder.absolute()
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
        commands = _Commands(session)
        commands.say(
            "1. A base model, from nothing: a tokenizer and a Llama, pre-trained on Python's own documentation"
        )
        commands.run("data", "stdlib", "data/stdlib.jsonl")
        commands.run("init", "stdlib-init", "--data", "data/stdlib.jsonl", *BASE_SETTINGS)
        commands.run("run", "recipes/stdlib-base.yaml", *few)

        commands.say("2. Two fine-tuned versions of it, for customer support")
        commands.run("data", "check", "data/support_faq.jsonl")
        commands.run("run", "recipes/support-bot.yaml", *few)
        commands.run("run", "recipes/support-bot-2.yaml", *few)

        commands.say(
            "3. The second one merged, quantized, pruned and exported; each result is measured against its source"
        )
        commands.run("merge", "support-bot:2")
        commands.run("quantize", "support-bot-merged", "--scheme", "int8", *accept)
        commands.run("prune", "support-bot-merged", "--sparsity", "0.2", *accept)
        commands.run("export", "support-bot-merged", "--format", "onnx", *accept)

        commands.say("4. How good they are, what is registered, and where it came from")
        commands.run("compare", "stdlib-base:1", "support-bot:1", "support-bot:2")
        commands.run("models", "alias", "support-bot:2", "champion")
        commands.run("models", "list")
        commands.run("lineage", "support-bot-merged-onnx")
        commands.run("verify")

        commands.say(
            "5. Both versions served side by side: four users in five get the first one, the others the second"
        )
        _serve(commands, session)
        _farewell(session, shown, home, time.monotonic() - started)


def _serve(commands: _Commands, session: Session) -> None:
    """Deploy the two versions as an experiment, send requests of many users, and show the report."""
    from ftreg.api.evaluation import held_out
    from ftreg.api.launch import free_port
    from ftreg.cli import quickstart_serving as serving
    from ftreg.registry import Registry

    os.environ["BENTOML_HOME"] = str(Path(".bentoml").absolute())
    commands.run("deploy", NAME, "--variant", f"{NAME}:1=80", "--variant", f"{NAME}:2=20")
    with Registry(".ftreg") as registry:
        examples = held_out([f"{NAME}:1"], registry=registry).examples
    rows = [(example.messages[0].content, example.messages[-1].content) for example in examples]
    port = free_port()
    commands.command(f"bentoml serve {NAME}:latest --port {port}")
    started = time.monotonic()
    with serving.server(NAME, port, Path("server.log")) as url:
        session.out.print(f"ready on {url} after {time.monotonic() - started:.1f} s; its log is server.log")
        started = time.monotonic()
        answers = serving.ask_questions(url, NAME, rows)
        seconds = time.monotonic() - started
        again, changed = serving.returning_users(answers)
        session.out.print(
            f"{len(answers)} requests of {serving.USERS} users answered in {seconds:.1f} s; "
            f"{again} users came more than once, {changed} of them met another variant\n"
        )
        users = serving.split(answers)
        session.table(
            ["variant", "expected share", "users", "share of users"],
            [[ref, f"{share:.0%}", users.get(ref, 0), f"{users.get(ref, 0) / sum(users.values()):.1%}"]
             for ref, share in ((f"{NAME}:1", 0.8), (f"{NAME}:2", 0.2))],
            right=["expected share", "users", "share of users"],
        )  # fmt: skip
        serving.send_feedback(url, answers)
        session.out.print("\nEach answer was scored: 1 if it was the expected one, else 0.")
    commands.run("experiment", "report", NAME)


NAME = "support-bot"

BASE_SETTINGS = [
    "--set", "vocab_size=4096",
    "--set", "hidden_size=256",
    "--set", "layers=2",
]  # fmt: skip


class _Commands:
    """Runs commands as ``ftreg`` would, and prints each one first."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._out = session.out

    def say(self, text: str) -> None:
        """Print a heading."""
        self._out.print(f"\n[bold]{text}[/]")

    def command(self, text: str) -> None:
        """Print a command."""
        self._out.print(f"\n[bold cyan]$ {text}[/]", highlight=False)

    def run(self, *arguments: str) -> None:
        """Print a command of ftreg, run it, and print how long it took."""
        from ftreg.cli.main import cli

        self.command(f"ftreg {shlex.join(arguments)}")
        started = time.monotonic()
        session = Session()
        session.home, session.disabled_plugins = ".ftreg", self._session.disabled_plugins
        try:
            cli.main(list(arguments), prog_name="ftreg", standalone_mode=False, obj=session)
        finally:
            session.close()
        self._out.print(f"[dim]{time.monotonic() - started:.1f} s[/]")


def _examples_folder() -> Path:
    """The folder of the example data and recipes: in the package, or beside it in a checkout."""
    package = Path(ftreg.__file__).parent
    inside = package / "examples"
    return inside if inside.is_dir() else package.parent / "examples"


def _farewell(session: Session, home: Path, folder: Path, seconds: float) -> None:
    """Print what was made and what to type next; ``home`` is how the user names ``folder``."""
    session.out.print(
        f"\n[bold]Done in {seconds / 60:.1f} minutes.[/] Everything is in {folder}\n"
        f"  registry        {folder / '.ftreg'}\n"
        f"  recipes, data   {folder / 'recipes'}, {folder / 'data'}\n"
        "\nNext:\n"
        f"  cd {home}\n"
        "  ftreg models show support-bot@champion     what is it made of\n"
        "  ftreg models log                           who did what, when\n"
        "  ftreg export support-bot-merged-onnx --to onnx-model    take it elsewhere, as plain files\n"
        "  BENTOML_HOME=.bentoml bentoml serve support-bot:latest    serve it again\n"
        "  BENTOML_HOME=.bentoml ftreg experiment set support-bot support-bot:2=50    while it runs: half and half\n"
        "  ftreg train recipes/support-bot.yaml --set lora.rank=64    change something and train again\n"
    )
