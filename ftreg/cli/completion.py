"""Shell completion: what can follow on the command line, without loading a heavy library or creating a registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from ftreg.cli.command import Command
from ftreg.core.errors import FtregError
from ftreg.core.specs import MetricSpec

if TYPE_CHECKING:
    from ftreg.core.host import PluginHost

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

_MOST = 200  # versions that are looked at


def complete_refs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Complete a reference: names, then ``name:number`` and ``name@alias``."""
    return [CompletionItem(ref, help=kind) for ref, kind in _refs(ctx) if ref.startswith(incomplete)]


def complete_weights(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the reference of ``REF=WEIGHT``."""
    return [] if "=" in incomplete else complete_refs(ctx, param, incomplete)


def complete_plugins(what: str) -> Completer:
    """Return a completer of the contributions of one kind: ``method``, ``step``, ``engine``, ``metric``."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
        from ftreg.core.registration import KINDS

        (kind,) = (kind for kind in KINDS.values() if kind.what == what)
        found = [CompletionItem(spec.name, help=spec.summary) for spec in _host(ctx).specs(kind)]
        return [item for item in found if item.value.startswith(incomplete)]

    return complete


def complete_formats(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Complete an export format."""
    from ftreg.api.steps import export_formats

    return [CompletionItem(name) for name in export_formats(_host(ctx)) if name.startswith(incomplete)]


def complete_settings(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Complete the keys of ``--set``, and after ``KEY=`` the values if there is a list of them."""
    with suppress(FtregError):
        return list(_matching_settings(ctx, incomplete))
    return []


def complete_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Complete what ``ftreg settings`` describes."""
    from ftreg.api.settings import names

    return [CompletionItem(name) for name in names(_host(ctx)) if name.startswith(incomplete)]


def _matching_settings(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    from ftreg.api.settings import settings

    host = _host(ctx)
    found = [setting for section in _sections(ctx) for setting in settings(section, host)]
    prefix = "data." if _in_data(ctx) else ""  # its commands take the keys of that one section
    key, equals, value = incomplete.partition("=")
    for setting in found:
        name = setting.key.removeprefix(prefix)
        if equals and name == key:
            options = setting.type.split(" | ") if " | " in setting.type else []
            yield from (CompletionItem(f"{key}={option}") for option in options if option.startswith(value))
        elif not equals and name.startswith(key):
            yield CompletionItem(f"{name}=", help=setting.description)


def _sections(ctx: click.Context) -> Iterable[str]:
    """What the settings of the command in ``ctx`` are those of."""
    name = ctx.info_name or ""
    if _in_data(ctx):
        return ["data"]
    if name in ("train", "run", "distill"):
        return ["data", "train", "distillation", _method(ctx)]
    if name == "apply":
        return [str(_first_argument(ctx, "step"))]
    if name == "export":
        return [str(ctx.params.get("format") or "onnx")]
    if name in ("eval", "compare"):
        return [*(spec.name for spec in _host(ctx).specs(MetricSpec) if spec.default), *ctx.params.get("metrics", ())]
    return [name] if name in ("merge", "quantize", "prune") else []


def _in_data(ctx: click.Context) -> bool:
    return ctx.parent is not None and ctx.parent.info_name == "data"


def _method(ctx: click.Context) -> str:
    """The method of ``--method`` or of the recipe, else the default one."""
    if ctx.params.get("method"):
        return str(ctx.params["method"])
    from ftreg.core.recipe import read_recipe

    with suppress(FtregError):
        return str(read_recipe(Path(str(_first_argument(ctx, "recipe")))).get("method", "lora"))
    return "lora"


def _first_argument(ctx: click.Context, name: str) -> str | None:
    """The command's first argument, called ``name``; None if it is not typed yet.

    While the value of an option is being completed, click leaves the arguments unread in ``ctx.args``.
    """
    return ctx.params.get(name) or next(iter(ctx.args), None)


def _refs(ctx: click.Context) -> Iterator[tuple[str, str]]:
    """The references of the newest versions, each with its kind: names first."""
    from ftreg.registry import Registry
    from ftreg.registry.home import find_home

    home = find_home(ctx.find_root().params.get("home"))
    if not (home / "registry.db").is_file():  # completing must not create a registry
        return
    with suppress(FtregError), Registry(home) as registry:
        found = registry.summaries(limit=_MOST)
        yield from dict.fromkeys((version.name, "") for version in found)
        yield from ((f"{version.name}@{alias}", version.ref) for version in found for alias in version.aliases)
        yield from ((version.ref, version.kind) for version in found)


def _host(ctx: click.Context) -> PluginHost:
    host: PluginHost = ctx.find_root().obj.host
    return host


# bash splits words at : and =, which references and settings contain; without this, it would complete only their ends.
_BASH_WORDS = "\nCOMP_WORDBREAKS=${COMP_WORDBREAKS//[:=]/}\n"


@click.command(
    cls=Command,
    examples=['eval "$(ftreg completion bash)"', 'eval "$(ftreg completion zsh)"', "ftreg completion fish | source"],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that switches on completion in SHELL.

    Put the line below into the file that the shell reads when it starts: ~/.bashrc, ~/.zshrc, or
    ~/.config/fish/config.fish.
    """
    completion: Any = get_completion_class(shell)
    script = completion(ctx.find_root().command, {}, "ftreg", "_FTREG_COMPLETE").source()
    click.echo(script + (_BASH_WORDS if shell == "bash" else ""))
