"""Messages of ``ftreg.api`` and below, which speak of Python, in the words of the command line.

Code in such a message stands between backticks: an argument (`` `merge=True` ``) becomes an option of the command that
runs (``--merge``), and a call (`` `registry.gc(dry_run=True)` ``) becomes the command that does the same
(``ftreg gc --dry-run``). All other code stays as it is.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping

import click
from click.core import ParameterSource

from ftreg.cli.commands import COMMANDS
from ftreg.core.errors import FtregError

Flags = Mapping[str, str]
"""How the parameters of a command are typed, by name: ``{"split": "--split", "ref": "REF"}``."""

# Functions and the commands that do the same, if the command is called otherwise.
_SAME: Mapping[str, str] = {
    "Registry.rebuild": "verify --rebuild",
    "ftreg.api.data.check": "data check",
    "ftreg.api.data.preview": "data preview",
    "ftreg.api.data.stats": "data stats",
    "ftreg.api.data.write_stdlib": "data stdlib",
    "ftreg.api.settings.settings": "settings",
    "ftreg.card": "models show",
    "ftreg.check_goldens": "eval --golden",
    "ftreg.evaluate": "eval",
    "ftreg.evict": "models evict",
    "ftreg.promote": "experiment promote",
    "ftreg.report": "experiment report",
    "ftreg.restore": "models restore",
    "ftreg.rollback": "experiment rollback",
    "ftreg.run_suite": "eval --suite",
    "ftreg.set_goldens": "models golden",
    "ftreg.set_weights": "experiment set",
    "ftreg.status": "experiment status",
    "registry.delete": "models delete",
    "registry.gc": "gc",
    "registry.get": "models show",
    "registry.host.plugins": "plugins list",
    "registry.list": "models list",
    "registry.release_gate": "plugins release",
    "registry.remove_alias": "models alias --remove",
    "registry.set_alias": "models alias",
    "registry.set_policy": "models policy",
    "registry.tag": "models tag",
    "registry.verify": "verify",
}
_MODULES = re.compile(r"^ftreg\.api\.(?!data\.|settings\.)\w+\.")  # their functions are ftreg's own too
_CODE = re.compile(r"`([^`\n]+)`")
_ARGUMENT = re.compile(r"(\w+)(?:=(.+))?")


def flags_of(ctx: click.Context) -> Flags:
    """Return how the parameters of the running command, and of ``ftreg`` itself, are typed."""
    contexts = (ctx.find_root(), ctx)
    return {param.name: _flag(param) for one in contexts for param in one.command.params if param.name}


def speak_of_commands(error: FtregError, ctx: click.Context) -> None:
    """Make an error of ``ftreg.api`` name commands and options in the place of functions and arguments.

    ``where="split"`` becomes ``--split``. The parameters of commands are called as the functions' arguments for this
    reason.
    """
    flags = flags_of(ctx)
    name, colon, rest = (error.where or "").partition(": ")
    # What a recipe says has the same names as options: only what was typed becomes an option then.
    typed = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    if name in flags and (typed or not ctx.params.get("recipe")):
        error.where = f"{flags[name]}{' ' if colon else ''}{rest}"
    error.message = in_commands(error.message, flags)
    error.hint = error.hint and in_commands(error.hint, flags)


def in_commands(text: str, flags: Flags | None = None) -> str:
    """Return ``text`` with the code in it as commands and options.

    Args:
        text: A message or a hint.
        flags: The options of the running command; by default those of click's current context.
    """
    if flags is None:
        ctx = click.get_current_context(silent=True)
        flags = flags_of(ctx) if ctx is not None else {}
    return _CODE.sub(lambda found: _option(found[1], flags) or _command(found[1]) or found[0], text)


def _option(code: str, flags: Flags) -> str | None:
    """How an argument such as ``split`` or ``merge=True`` is typed; None if the command has no such option."""
    argument = _ARGUMENT.fullmatch(code)
    if argument is None or argument[1] not in flags:
        return None
    try:
        value = ast.literal_eval(argument[2]) if argument[2] else True
    except (SyntaxError, ValueError):  # not a value that can be typed
        return None
    return " ".join(_typed(flags[argument[1]], value))


def _command(code: str) -> str | None:
    """The command that does the same as ``code``; None if there is none."""
    try:
        found = ast.parse(code, mode="eval").body
        call = found if isinstance(found, ast.Call) else ast.Call(found, [], [])
        arguments = list(_arguments(call))
    except (SyntaxError, ValueError):  # not a call, or one with arguments that cannot be typed
        return None
    function = _MODULES.sub("ftreg.", ast.unparse(call.func))
    short = function.removeprefix("ftreg.")
    command = _SAME.get(function) or (short if short in COMMANDS and short != function else None)
    return " ".join(["ftreg", command, *arguments]) if command else None


def _arguments(call: ast.Call) -> Iterator[str]:
    for argument in call.args:
        yield shlex.quote(str(ast.literal_eval(argument)))
    for keyword in call.keywords:
        yield from _typed(f"--{str(keyword.arg).replace('_', '-')}", ast.literal_eval(keyword.value))


def _typed(flag: str, value: object) -> Iterator[str]:
    """What is typed for an option: ``--merge``, ``--format onnx``, ``--column prompt=Question``."""
    values = [f"{key}={item}" for key, item in value.items()] if isinstance(value, dict) else [value]
    for one in values:
        yield flag if one is True else f"{flag} {shlex.quote(str(one))}"


def _flag(param: click.Parameter) -> str:
    """How a parameter is typed: ``--split``, or ``REF`` for an argument."""
    if isinstance(param, click.Argument):
        return param.human_readable_name
    return next((opt for opt in param.opts if opt.startswith("--")), param.opts[0])
