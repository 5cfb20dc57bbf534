"""Verification: compares the stored files, the manifests, the catalog, the journal and the views with each other."""

from __future__ import annotations

from pathlib import Path

from ftreg.core.errors import CorruptRegistry, FtregError
from ftreg.core.manifest import FileEntry, Manifest
from ftreg.core.types import Progress
from ftreg.registry.blobs import check_entries, examine, read_manifest
from ftreg.registry.catalog import Catalog, edges_of, manifest_row
from ftreg.registry.eviction import kept_files
from ftreg.registry.evidence import evidence_files, evidence_key
from ftreg.registry.home import Home
from ftreg.registry.journal import read_journal
from ftreg.registry.records import Damage, Edge, VerifyReport
from ftreg.registry.views import is_whole, view_key

_REBUILD = "Rebuild the catalog from the manifests and the event log with `Registry.rebuild()`"


class Verifier:
    """One verification of a registry.

    Args:
        home: The registry's folder.
        catalog: Its catalog, in a read transaction.
        full: Hash every file; otherwise only sizes and seals are compared.
        progress: Where to report the bytes checked.
    """

    def __init__(self, home: Home, catalog: Catalog, *, full: bool, progress: Progress) -> None:
        self._home = home
        self._catalog = catalog
        self._full = full
        self._progress = progress
        self._damages: list[Damage] = []
        self._evicted = catalog.evicted()
        self._names = {version.digest: version.ref for version in catalog.versions()}

    def run(self, digests: list[str] | None = None) -> VerifyReport:
        """Check ``digests`` and their ancestors, or the whole registry if ``digests`` is None."""
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
            rebuildable=len(self._evicted.keys() & set(chosen)),
            damages=tuple(self._damages),
        )

    def _damage(self, where: Path | str, problem: str, hint: str) -> None:
        self._damages.append(Damage(str(where), problem, hint))

    def _name(self, digest: str) -> str:
        return self._names.get(digest, digest)

    def _check_database(self) -> None:
        """Let SQLite check the catalog's database."""
        for problem in self._catalog.problems(full=self._full):
            self._damage(self._home.database, problem, _REBUILD)

    def _check_journal(self) -> None:
        """Compare the journal with the catalog's event log; a journal that is only behind is not damaged."""
        try:
            mirrored = read_journal(self._home.events)
        except CorruptRegistry as error:
            hint = f"Delete {self._home.events}; the next change writes it again from the catalog."
            self._damage(error.where or self._home.events, error.message, hint)
            return
        recorded = list(reversed(self._catalog.events()))
        if len(mirrored) > len(recorded):
            problem = f"the catalog has {len(recorded)} events and the journal has {len(mirrored)}"
            self._damage(self._home.database, problem, _REBUILD)
        for ours, copy in zip(recorded, mirrored, strict=False):
            if ours != copy:
                hint = "One of them was edited or restored from an older copy; keep the correct one, delete the other."
                self._damage(self._home.events, f"event {copy.id} differs from the catalog's", hint)
                return

    def _check_manifest(
        self, digest: str, known: dict[str, tuple[str, int, str, str]], edges: set[Edge]
    ) -> Manifest | None:
        """Check one manifest and its rows in the catalog; return it, or None if it cannot be read."""
        if digest not in known:
            children = ", ".join(self._name(child) for child in self._catalog.children(digest))
            self._damage(digest, f"the parent of {children} is missing", "Restore it from a copy of the registry.")
            return None
        try:
            manifest = read_manifest(self._home, digest)
        except CorruptRegistry as error:
            hint = f"Restore it from a copy of the registry; {self._name(digest)} cannot be used without it."
            self._damage(error.where or self._home.manifest(digest), f"{error.message} ({self._name(digest)})", hint)
            return None
        stated = {edge for edge in edges if edge.child == digest}
        if known[digest] != manifest_row(manifest) or stated != set(edges_of(digest, manifest)):
            self._damage(
                self._home.database, f"the catalog disagrees with the manifest of {self._name(digest)}", _REBUILD
            )
        return manifest

    def _evidence(self, digests: set[str]) -> list[tuple[str, list[FileEntry]]]:
        """Return the files of each evidence record of ``digests``, each with its digest."""
        found = []
        for event in self._catalog.evidence():
            if event.digest in digests:
                try:
                    entries = evidence_files(event)
                    check_entries(entries)
                except (FtregError, TypeError) as error:
                    self._damage(
                        self._home.database, f"event {event.id} lists files that cannot be used: {error}", _REBUILD
                    )
                else:
                    found.append((event.digest, entries))
        return found

    def _files(
        self, manifests: dict[str, Manifest], evidence: list[tuple[str, list[FileEntry]]]
    ) -> dict[FileEntry, str]:
        """Return every distinct stored file with the name of one owner, for messages."""
        files: dict[str, tuple[FileEntry, str]] = {}
        for digest, manifest in manifests.items():
            for entry in kept_files(digest, manifest, self._evicted):
                files.setdefault(entry.blake3, (entry, self._name(digest)))
        for digest, entries in evidence:
            for entry in entries:
                files.setdefault(entry.blake3, (entry, f"the evidence of {self._name(digest)}"))
        return dict(files.values())

    def _check_files(self, files: dict[FileEntry, str]) -> None:
        """Check every stored file."""
        self._progress.begin("Verifying", sum(entry.size for entry in files) or None, "bytes")
        done = 0
        for entry, owner in files.items():
            problem = examine(self._home, entry, full=self._full)
            if problem:
                path = self._home.blob(entry.blake3)
                hint = f"Restore it from a copy of the registry, or delete it and make or import {owner} again."
                self._damage(path, f"{entry.path} of {owner} {problem}", hint)
            done += entry.size
            self._progress.update(done)
        self._progress.end()

    def _check_views(self, manifests: dict[str, Manifest], evidence: list[tuple[str, list[FileEntry]]]) -> None:
        """Compare the views that exist with the versions and evidence that they show."""
        expected = {
            view_key(digest): list(manifest.files)
            for digest, manifest in manifests.items()
            if digest not in self._evicted  # a view that is left over will be removed by gc
        }
        expected |= {evidence_key(entries): entries for _, entries in evidence}
        for folder in sorted(self._home.views.iterdir()):
            entries = expected.get(folder.name)
            if entries is not None and not is_whole(folder, entries):
                self._damage(
                    folder,
                    "the view differs from its version",
                    "Delete it; it is created again when the version is next used.",
                )
