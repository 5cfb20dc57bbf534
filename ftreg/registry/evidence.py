"""Evidence: what is found out about a digest. It is attached as events and never changed or removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from blake3 import blake3

from ftreg.core.manifest import FileEntry, Json, canonical_json
from ftreg.core.names import check_name
from ftreg.registry.blobs import Staged, measure
from ftreg.registry.home import Home
from ftreg.registry.records import Draft, Event, EvidenceRecord
from ftreg.registry.staging import copy_in, open_staging
from ftreg.registry.views import open_view

RUN = "run"
"""The type of evidence about the run that made a version; the files of a draft's report go with it."""


def evidence_detail(kind: str, body: Mapping[str, Json], files: Sequence[Staged]) -> Mapping[str, Json]:
    """Build the ``detail`` of an evidence event; raise ``InputError`` if ``kind`` cannot be a type of evidence."""
    check_name(kind, what="evidence type")
    return {"type": kind, "body": dict(body), "files": [asdict(item.entry) for item in files]}


def evidence_of(draft: Draft, report: Sequence[Staged]) -> list[Mapping[str, Json]]:
    """Build the details of a draft's evidence events; the report's files go with the evidence of type ``run``."""
    records = [*draft.evidence]
    if report and RUN not in [kind for kind, _ in records]:
        records.insert(0, (RUN, {}))
    return [evidence_detail(kind, body, report if kind == RUN else ()) for kind, body in records]


@contextmanager
def staged_files(home: Home, folder: Path | None) -> Iterator[list[Staged]]:
    """Hash the files of ``folder``, ready to be stored; a folder outside the staging area is copied there first."""
    if folder is None:
        yield []
    elif home.owns(folder):
        yield measure(folder)
    else:
        with open_staging(home) as staging:
            copy_in(folder, staging.files)
            yield measure(staging.files)


def evidence_files(event: Event) -> list[FileEntry]:
    """Return the files that an evidence event attached."""
    return [FileEntry(**entry) for entry in event.detail["files"]]


def evidence_key(files: Sequence[FileEntry]) -> str:
    """Return the name of the view of an evidence record's files; records with the same files share one view."""
    listing = canonical_json([[entry.path, entry.blake3] for entry in files])
    return f"evidence-{blake3(listing).hexdigest()[:32]}"


def read_evidence(home: Home, event: Event) -> EvidenceRecord:
    """Turn an evidence event into a record whose files can be read.

    Raises:
        CorruptRegistry: A file is missing or was changed.
    """
    entries = evidence_files(event)
    files: dict[str, Path] = {}
    if entries:
        folder = open_view(home, evidence_key(entries), entries)
        files = {entry.path: folder / entry.path for entry in entries}
    return EvidenceRecord(event.detail["type"], event.at, event.ref, event.detail["body"], files)


def evidence_for_gates(event: Event) -> Mapping[str, Json]:
    """Turn an evidence event into the mapping that gates receive: ``type``, ``at`` and ``body``."""
    return {"type": event.detail["type"], "at": event.at, "body": event.detail["body"]}
