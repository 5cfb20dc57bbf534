"""``ftreg du``: what takes how many bytes in the registry."""

from __future__ import annotations

from dataclasses import asdict

import click

from ftreg.cli.command import Command
from ftreg.cli.session import Session, human_size, json_option


@click.command(cls=Command, examples=["ftreg du", "ftreg du --limit 5", "ftreg du --json"])
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Show at most this many.")
@json_option
@click.pass_obj
def command(session: Session, limit: int, as_json: bool) -> None:
    """Show what takes how many bytes: versions, the largest first, evidence, views, checkpoints.

    A version's own bytes are those that nothing else needs; shared ones are needed by other versions or evidence too.
    """
    from ftreg.api import upkeep

    found = upkeep.du(**session.api_arguments)
    if as_json:
        session.json(asdict(found) | {"could_save": found.could_save})
        return
    usage = found.usage
    sizes = ["own", "shared", "given up"]
    session.table(
        ["version", "state", *sizes],
        [
            [version.ref, version.state, *map(human_size, (version.own, version.shared, version.saved))]
            for version in usage.versions[:limit]
        ],
        right=sizes,
    )
    if len(usage.versions) > limit:
        session.progress.say(f"only the largest {limit} are shown; --limit shows more")
    session.print("")
    rows = {
        "files of versions": usage.files,
        "files of evidence": usage.evidence,
        "files that nothing needs (ftreg gc frees them)": usage.unreferenced,
        "copies in views": usage.views,
        "checkpoints of trainings": usage.runs,
        "staging": usage.staging,
        "manifests, catalog and log": usage.records,
        "given up by eviction": usage.saved,
        "can be given up (ftreg gc --rebuildable)": found.could_save,
    }
    session.table(["", "size"], [[what, human_size(size)] for what, size in rows.items()], right=["size"])
