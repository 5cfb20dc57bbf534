"""Verification: does the registry hold what it says?"""

from __future__ import annotations

from pathlib import Path

from ftreg.core.errors import CorruptRegistry, FtregError
from ftreg.core.manifest import FileEntry, Manifest
from ftreg.core.types import Progress
from ftreg.registry.blobs import check_entries, examine, read_manifest
from ftreg.registry.catalog import Catalog, edges_of, manifest_row
from ftreg.registry.home import Home
from ftreg.registry.journal import read_journal
from ftreg.registry.records import Damage, Edge, VerifyReport
from ftreg.registry.views import evidence_files, evidence_key, is_whole, view_key

_REBUILD = "Rebuild the catalog from the manifests and the event log: ftreg verify --rebuild"


class Verifier:
    """One verification; ``run`` looks at everything, or at some digests, and reports all that is damaged."""

    def __init__(self, home: Home, catalog: Catalog, *, full: bool, progress: Progress) -> None:
        self._home = home
        self._catalog = catalog
        self._full = full
        self._progress = progress
        self._damages: list[Damage] = []
        self._names = {version.digest: version.ref for version in reversed(catalog.versions())}

    def run(self, digests: list[str] | None = None) -> VerifyReport:
        """Check ``digests`` and what they were made from, or the whole registry."""
        known = self._catalog.manifests()
        chosen = self._catalog.closure(sorted(known) if digests is None else digests, up=True)
        if digests is None:
            self._check_database()
            self._check_journal()
        edges = self._catalog.edges()
        manifests = {digest: self._check_manifest(digest, known, edges) for digest in chosen}
        whole = {digest: manifest for digest, manifest in manifests.items() if manifest is not None}
        evidence = self._evidence(set(chosen))
        files = self._files(whole, evidence)
        self._check_files(files)
        self._check_views(whole, evidence)
        return VerifyReport(
            full=self._full,
            versions=len(chosen),
            files=len(files),
            size=sum(entry.size for entry in files),
            damages=tuple(self._damages),
        )

    def _damage(self, where: Path | str, problem: str, hint: str) -> None:
        self._damages.append(Damage(str(where), problem, hint))

    def _name(self, digest: str) -> str:
        return self._names.get(digest, digest)

    def _check_database(self) -> None:
        """Ask SQLite whether the catalog is whole."""
        for problem in self._catalog.problems(full=self._full):
            self._damage(self._home.database, problem, _REBUILD)

    def _check_journal(self) -> None:
        """Compare the journal with the catalog's event log; a journal that is merely behind is no damage."""
        try:
            mirrored = read_journal(self._home.events)
        except CorruptRegistry as error:
            hint = f"Delete {self._home.events}; it is written anew from the catalog with the next change."
            self._damage(error.where or self._home.events, error.message, hint)
            return
        recorded = list(reversed(self._catalog.events()))
        if len(mirrored) > len(recorded):
            problem = f"the catalog has {len(recorded)} events, the event log {len(mirrored)}"
            self._damage(self._home.database, problem, _REBUILD)
        for ours, copy in zip(recorded, mirrored, strict=False):
            if ours != copy:
                hint = "One of them was changed by hand or restored from an older copy; keep the right one."
                self._damage(self._home.events, f"event {copy.id} is not what the catalog says", hint)
                return

    def _check_manifest(
        self, digest: str, known: dict[str, tuple[str, int, str, str]], edges: set[Edge]
    ) -> Manifest | None:
        """Check one manifest, and that the catalog says the same; return it if it can be read."""
        if digest not in known:
            children = ", ".join(self._name(child) for child in self._catalog.children(digest))
            self._damage(digest, f"is a parent of {children} and is missing", "Restore it from a copy of the registry.")
            return None
        try:
            manifest = read_manifest(self._home, digest)
        except CorruptRegistry as error:
            hint = f"Restore it from a copy of the registry; {self._name(digest)} cannot be used without."
            self._damage(error.where or self._home.manifest(digest), f"{error.message} ({self._name(digest)})", hint)
            return None
        stated = {edge for edge in edges if edge.child == digest}
        if known[digest] != manifest_row(manifest) or stated != set(edges_of(digest, manifest)):
            self._damage(self._home.database, f"disagrees with the manifest of {self._name(digest)}", _REBUILD)
        return manifest

    def _evidence(self, digests: set[str]) -> list[tuple[str, list[FileEntry]]]:
        """The files of each evidence record of ``digests``, with the digest."""
        found = []
        for event in self._catalog.evidence():
            if event.digest in digests:
                try:
                    entries = evidence_files(event)
                    check_entries(entries)
                except (FtregError, TypeError) as error:
                    self._damage(self._home.database, f"event {event.id} lists unusable files: {error}", _REBUILD)
                else:
                    found.append((event.digest, entries))
        return found

    def _files(
        self, manifests: dict[str, Manifest], evidence: list[tuple[str, list[FileEntry]]]
    ) -> dict[FileEntry, str]:
        """Every distinct stored file with one owner that can be named to a person."""
        files: dict[str, tuple[FileEntry, str]] = {}
        for digest, manifest in manifests.items():
            for entry in manifest.files:
                files.setdefault(entry.blake3, (entry, self._name(digest)))
        for digest, entries in evidence:
            for entry in entries:
                files.setdefault(entry.blake3, (entry, f"the evidence of {self._name(digest)}"))
        return dict(files.values())

    def _check_files(self, files: dict[FileEntry, str]) -> None:
        """Look at, or hash, every file."""
        self._progress.begin("Verifying", sum(entry.size for entry in files) or None, "bytes")
        done = 0
        for entry, owner in files.items():
            problem = examine(self._home, entry, full=self._full)
            if problem:
                path = self._home.blob(entry.blake3)
                hint = f"Delete it and make or import {owner} again, or restore it from a copy of the registry."
                self._damage(path, f"{entry.path} of {owner} {problem}", hint)
            done += entry.size
            self._progress.update(done)
        self._progress.end()

    def _check_views(self, manifests: dict[str, Manifest], evidence: list[tuple[str, list[FileEntry]]]) -> None:
        """Compare the views that exist with what they show."""
        expected = {view_key(digest): list(manifest.files) for digest, manifest in manifests.items()}
        expected |= {evidence_key(entries): entries for _, entries in evidence}
        for folder in sorted(self._home.views.iterdir()):
            entries = expected.get(folder.name)
            if entries is not None and not is_whole(folder, entries):
                self._damage(folder, "the view is not what its version says", "Delete it; it is made anew on use.")
