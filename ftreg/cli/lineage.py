"""``ftreg lineage``: what a version was made from, and what was made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ftreg.cli.command import Command
from ftreg.cli.completion import complete_refs
from ftreg.cli.session import Session, json_option

if TYPE_CHECKING:
    from rich.tree import Tree

    from ftreg.registry import Lineage


@click.command(cls=Command, examples=["ftreg lineage support-bot-merged", "ftreg lineage support-bot:2 --mermaid"])
@click.argument("ref", shell_complete=complete_refs)
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart.")
@json_option
@click.pass_obj
def command(session: Session, ref: str, mermaid: bool, as_json: bool) -> None:
    """Show what REF was made from, and what was made from it, over all generations."""
    lineage = session.registry.lineage(ref)
    if as_json:
        session.json(as_facts(lineage))
    elif mermaid:
        session.print(as_mermaid(lineage))
    else:
        session.out.print(as_tree(lineage))


def as_facts(lineage: Lineage) -> dict[str, Any]:
    """Return the graph as JSON."""
    return {
        "root": lineage.root,
        "nodes": [
            {
                "digest": digest,
                "ref": version.ref,
                "also": list(lineage.also.get(digest, ())),
                "kind": version.kind,
                "aliases": list(version.aliases),
                "deleted": digest in lineage.deleted,
            }
            for digest, version in lineage.nodes.items()
        ],
        "edges": [{"child": edge.child, "role": edge.role, "parent": edge.parent} for edge in lineage.edges],
    }


def as_mermaid(lineage: Lineage) -> str:
    """Return the graph as a Mermaid flowchart, parents first."""
    names = {digest: f"n{index}" for index, digest in enumerate(_order(lineage))}
    lines = ["flowchart TD"]
    lines += [f'    {name}["{_label(lineage, digest)}"]' for digest, name in names.items()]
    lines += [f"    {names[edge.parent]} -->|{edge.role}| {names[edge.child]}" for edge in lineage.edges]
    return "\n".join(lines)


def as_tree(lineage: Lineage) -> Tree:
    """Return the graph as a tree of two branches: what the version was made from, and what was made from it."""
    from rich.markup import escape
    from rich.tree import Tree

    tree = Tree(f"[bold]{escape(_label(lineage, lineage.root))}[/]")
    for title, up in (("made from", True), ("made into", False)):
        edges = lineage.parents(lineage.root) if up else lineage.children(lineage.root)
        if edges:
            _grow(tree.add(title), lineage, lineage.root, up=up, shown=set())
    return tree


def _grow(branch: Tree, lineage: Lineage, digest: str, *, up: bool, shown: set[str]) -> None:
    """Add the relatives of ``digest``; one that was shown before is named but not followed again."""
    from rich.markup import escape

    for edge in lineage.parents(digest) if up else lineage.children(digest):
        other = edge.parent if up else edge.child
        role = f"{edge.role} " if up else f"as {edge.role}: "
        further = lineage.parents(other) if up else lineage.children(other)
        again = other in shown and bool(further)
        label = f"[dim]{escape(role)}[/]{escape(_label(lineage, other))}{' [dim](see above)[/]' if again else ''}"
        twig = branch.add(label)
        if not again:
            shown.add(other)
            _grow(twig, lineage, other, up=up, shown=shown)


def _label(lineage: Lineage, digest: str) -> str:
    version = lineage.nodes.get(digest)
    if version is None:
        return f"{digest[:15]} MISSING"
    aliases = "".join(f" @{alias}" for alias in version.aliases)
    also = f" (also {', '.join(lineage.also[digest])})" if digest in lineage.also else ""
    return f"{version.ref}{also} {version.kind}{aliases}{' (deleted)' if digest in lineage.deleted else ''}"


def _order(lineage: Lineage) -> list[str]:
    """All digests, the oldest first, including those of parents that are missing."""
    digests = {lineage.root, *lineage.nodes, *(end for edge in lineage.edges for end in (edge.child, edge.parent))}
    return sorted(
        digests, key=lambda digest: (lineage.nodes[digest].created if digest in lineage.nodes else "", digest)
    )
