"""The registry itself: what the other rooms and the command line work with."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Json
from ftreg.core.names import check_name, parse_ref
from ftreg.core.types import NullProgress, Progress, Source, Version
from ftreg.registry import collect, gates, publish, staging
from ftreg.registry.blobs import measure, store
from ftreg.registry.catalog import Catalog
from ftreg.registry.finder import Finder
from ftreg.registry.home import Home, find_home
from ftreg.registry.journal import catch_up
from ftreg.registry.publish import Prepared
from ftreg.registry.rebuild import rebuild
from ftreg.registry.records import (
    Draft,
    Event,
    EvidenceRecord,
    Gate,
    GcReport,
    Lineage,
    RebuildReport,
    Summary,
    VerifyReport,
)
from ftreg.registry.system import catalog_missing, system_errors
from ftreg.registry.verify import Verifier
from ftreg.registry.views import evidence_files, evidence_key, open_view, view_key

logger = logging.getLogger("ftreg.registry")


class Registry:
    """A registry of versions in one folder. Any number of processes may use it; each thread opens its own.

    Args:
        home: Its folder; by default ``$FTREG_HOME``, else the nearest ``.ftreg``, else the user's data folder. Created
            where it is missing.
        host: The plugins whose gates and observers are asked; by default those that the environment asks for.

    Raises:
        InputError: The folder holds other things.
        CorruptRegistry: The catalog is missing or damaged.
        FtregError: The folder cannot be read or written, or was made by a newer ftreg.
    """

    def __init__(self, home: Path | str | None = None, *, host: PluginHost | None = None) -> None:
        self._host = host
        self._home = Home(find_home(home))
        with system_errors(self._home.path):
            _create(self._home)
            self._catalog = _open(self._home)
        self._finder = Finder(self._home, self._catalog)
        self._published: builtins.list[str] = []

    @property
    def host(self) -> PluginHost:
        """The plugins that guard and observe this registry, loaded when they are first asked."""
        if self._host is None:
            self._host = PluginHost.from_environment()
        return self._host

    @property
    def home(self) -> Path:
        """The registry's folder."""
        return self._home.path

    @property
    def published(self) -> tuple[str, ...]:
        """References of the versions that were published through this object, oldest first."""
        return tuple(self._published)

    def close(self) -> None:
        """Close the catalog."""
        self._catalog.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Reading.

    def get(self, ref: str) -> Version:
        """The version that ``ref`` names: ``name`` (the newest), ``name:3``, ``name@alias`` or a digest's beginning.

        A digest also finds a deleted version for as long as another was made from it.

        Raises:
            UnknownName: There is none.
            InputError: ``ref`` is no reference, or the beginning of several digests.
        """
        return self._finder.version(self._finder.find(ref))

    def source(self, ref: str) -> Source:
        """Open a version: its ``path`` is a folder that libraries can load. Do not write there.

        Raises:
            UnknownName: There is no such version.
            CorruptRegistry: Its bytes are missing, or were changed.
        """
        version = self.get(ref)
        with system_errors(self.home):
            path = open_view(self._home, view_key(version.digest), version.manifest.files)
        return Source(version.ref, version.digest, path, version.manifest, self.source)

    def list(
        self,
        *,
        name: str | None = None,
        kind: str | None = None,
        tags: Mapping[str, str] | None = None,
        limit: int | None = 50,
    ) -> builtins.list[Version]:
        """The newest versions to which all that is given applies, newest first; raise ``UnknownName`` for a name."""
        return [self._finder.version(found) for found in self.summaries(name=name, kind=kind, tags=tags, limit=limit)]

    def summaries(
        self,
        *,
        name: str | None = None,
        kind: str | None = None,
        tags: Mapping[str, str] | None = None,
        limit: int | None = 50,
    ) -> builtins.list[Summary]:
        """As ``list``, from the catalog alone: no manifest is read."""
        if name is not None:
            self._finder.check_known(name)
        return self._catalog.versions(name=name, kind=kind, tags=tags, limit=limit)

    def count(self) -> int:
        """How many versions there are."""
        return self._catalog.count()

    def find_produced(self, key: str, *, name: str | None = None) -> Version | None:
        """The newest version, of ``name`` if given, whose production key is ``key``; see ``production_key``."""
        found = self._catalog.versions(production_key=key, name=name, limit=1)
        return self._finder.version(found[0]) if found else None

    def evidence(self, ref: str) -> builtins.list[EvidenceRecord]:
        """What was found out about a version, oldest first.

        Raises:
            UnknownName: There is no such version.
            CorruptRegistry: A file that goes with it is missing, or was changed.
        """
        return [self._evidence(event) for event in self._catalog.evidence(self._finder.find(ref).digest)]

    def events(self, ref: str | None = None, *, limit: int | None = None) -> builtins.list[Event]:
        """The event log, newest first: all of it, or what is about a name or a version, deleted ones too.

        Raises:
            UnknownName: Nothing goes, or went, by that name.
        """
        if ref is None:
            return self._catalog.events(limit=limit)
        parsed = parse_ref(ref)
        if parsed.name is None or parsed.alias is not None:
            found = self._finder.find(ref)
            return self._catalog.events(name=found.name, number=found.number, limit=limit)
        self._finder.check_known(parsed.name)
        events = self._catalog.events(name=parsed.name, number=parsed.number, limit=limit)
        if not events and limit != 0:
            raise self._finder.unknown_version(ref, parsed.name)
        return events

    def alias_at(self, name: str, alias: str, when: datetime) -> Event | None:
        """The event by which ``alias`` pointed where it did at a moment; None where it pointed nowhere.

        Args:
            name: The model's name.
            alias: The alias.
            when: The moment; local time where it has no time zone.
        """
        past = [
            event
            for event in self._catalog.alias_history(name, alias)
            if datetime.fromisoformat(event.at) <= when.astimezone()
        ]
        return past[-1] if past and past[-1].action == "alias_set" else None

    def lineage(self, ref: str) -> Lineage:
        """What a version was made from, and what was made from it; raise ``UnknownName`` where there is none."""
        root = self._finder.find(ref).digest
        ancestors = self._catalog.closure([root], up=True)
        descendants = self._catalog.closure([root], up=False)
        digests = sorted({*ancestors, *descendants})
        nodes = {
            digest: self._finder.version(self._finder.by_digest(digest))
            for digest in digests
            if self._catalog.has(digest)
        }
        edges = tuple(edge for edge in self._catalog.edges_of(digests) if edge.parent in digests)
        live = {digest for digest in nodes if self._catalog.versions(digest=digest, limit=1)}
        return Lineage(root, nodes, edges, frozenset(nodes.keys() - live))

    # Writing.

    def staging(self) -> AbstractContextManager[staging.Staging]:
        """A folder to write a version in, on the registry's file system; removed when the ``with`` block ends."""
        return staging.open_staging(self._home)

    def copy_in(
        self, folder: Path, target: Path, *, patterns: Sequence[str] = ("*",), within: Path | None = None
    ) -> None:
        """Copy a foreign folder into a staging folder; see ``ftreg.registry.staging.copy_in``."""
        with system_errors(self.home):
            staging.copy_in(folder, target, patterns=patterns, within=within)

    def prepare(self, draft: Draft) -> Prepared:
        """Hash a draft, so that its digest is known before it is published; its staging must stay open until then.

        Raises:
            FtregError: The files are no plain files, or lie outside of this registry's staging.
            DiskFull: No room is left.
        """
        if not self._home.owns(draft.folder):
            raise FtregError(
                "is not in this registry's staging",
                where=str(draft.folder),
                hint="Publish what is in `with registry.staging() as staging`; registry.copy_in() brings files there.",
            )
        with system_errors(self.home):
            return publish.prepare(draft)

    def publish(self, name: str, draft: Draft | Prepared, *, tags: Mapping[str, str] | None = None) -> Version:
        """Make a draft a version of ``name``: all of it, durably, or nothing.

        Where ``name`` has a version of the same digest, that one is returned, with the tags added.

        Raises:
            InputError: The name, a tag or a file's name cannot be used.
            FtregError: A gate refuses, a parent is not in the registry, or the files are no plain files.
            DiskFull: No room is left.
        """
        tags = dict(tags or {})
        check_name(name)
        for key, value in tags.items():
            publish.check_tag(key, value)
        with system_errors(self.home):
            return self._publish(name, self.prepare(draft) if isinstance(draft, Draft) else draft, tags)

    def _publish(self, name: str, prepared: Prepared, tags: Mapping[str, str]) -> Version:
        draft, manifest, digest = prepared.draft, prepared.manifest, prepared.digest
        is_new = not self._catalog.versions(name=name, digest=digest)
        report = measure(draft.report) if draft.report and is_new else []
        evidence = publish.evidence_of(draft, report)
        if is_new:
            event = Event.now("published", digest, name)
            draft_version = Version(name, 0, digest, manifest.kind, manifest.size, event.at, manifest, tags=tags)
            self._ask_gates("ftreg_check_version", f"{name} cannot be published", version=draft_version)
        with self._home.lock():
            publish.store_version(self._home, manifest, [*prepared.files, *report])
            with self._writing() as catalog:
                known = catalog.versions(name=name, digest=digest)
                if known:
                    is_new = False
                    self._add_tags(catalog, known[0], tags)
                else:
                    publish.record_version(catalog, name, manifest, tags, evidence)
        version = self._finder.version(self._catalog.versions(name=name, digest=digest)[0])
        if is_new:
            self._published.append(version.ref)
            self._notify("ftreg_version_created", version=version)
        return version

    def set_alias(self, ref: str, alias: str) -> Version:
        """Point ``alias`` of the version's name at the version; return it.

        Raises:
            UnknownName: There is no such version.
            FtregError: A gate refuses.
        """
        check_name(alias, what="alias")
        target = self._finder.find_pointer(ref)
        if alias in target.aliases:
            return self._finder.version(target)
        self._ask_gates(
            "ftreg_check_promotion",
            f"{target.name}@{alias} cannot move to {target.ref}",
            version=self._finder.version(target),
            alias=alias,
            evidence=self._records(target.digest),
        )
        with self._writing() as catalog:
            self._finder.find_pointer(target.ref)
            past = catalog.versions(name=target.name, alias=alias)
            old = past[0].digest if past else None
            catalog.append(Event.now("alias_set", target.digest, target.name, target.number, alias=alias, old=old))
        self._notify("ftreg_alias_moved", name=target.name, alias=alias, old=old, new=target.digest)
        return self.get(target.ref)

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias; raise ``UnknownName`` where there is none."""
        with self._writing() as catalog:
            old = self._finder.find(f"{name}@{alias}")
            catalog.append(Event.now("alias_removed", old.digest, name, old.number, alias=alias, old=old.digest))
        self._notify("ftreg_alias_moved", name=name, alias=alias, old=old.digest, new=None)

    def tag(self, ref: str, key: str, value: str) -> None:
        """Set a tag of a version; raise ``InputError`` for a key or value that cannot be a tag's."""
        publish.check_tag(key, value)
        with self._writing() as catalog:
            self._add_tags(catalog, self._finder.find_pointer(ref), {key: value})

    def untag(self, ref: str, key: str) -> None:
        """Remove a tag of a version; raise ``UnknownName`` where it has none of that key."""
        with self._writing() as catalog:
            version = self._finder.find_pointer(ref)
            if key not in version.tags:
                raise UnknownName("tag", key, version.tags, where=version.ref)
            catalog.append(Event.now("untagged", version.digest, version.name, version.number, key=key))

    def delete(self, ref: str, *, force: bool = False) -> None:
        """Delete a version, by number or digest; its bytes go with the next ``gc`` if nothing was made from them.

        Args:
            ref: Which; a name alone is refused, for what it means changes.
            force: Delete it although others were made from it. They stay whole: its files are kept for them.

        Raises:
            InputError: ``ref`` is a name or alias, an alias points at the version, or others were made from it.
        """
        parsed = parse_ref(ref)
        if parsed.number is None and parsed.digest_prefix is None:
            raise InputError("say which version", where=ref, hint=f"Such as {self._finder.find(ref).ref}.")
        with self._writing() as catalog:
            version = self._finder.find_pointer(ref)
            if version.aliases:
                alias = version.aliases[0]
                raise InputError(
                    f"{version.ref} is {', '.join(version.aliases)} and cannot be deleted",
                    hint=f"Move the alias first: ftreg models alias --remove {version.name} {alias}",
                )
            children = [self._finder.by_digest(child).ref for child in catalog.children(version.digest)]
            if children and not force:
                raise InputError(
                    f"{version.ref} cannot be deleted: {', '.join(sorted(children))} was made from it",
                    hint="Delete it all the same with `force=True`; its files are kept for as long as they are needed.",
                )
            catalog.append(Event.now("deleted", version.digest, version.name, version.number))

    def add_evidence(self, ref: str, type: str, body: Mapping[str, Json], files: Path | None = None) -> None:  # noqa: A002
        """Attach what was found out to a version's digest; it is never changed or removed.

        Args:
            ref: Which version.
            type: What kind of finding: ``evaluation``, ``certificate``, or a name of your own.
            body: The finding.
            files: A folder of files that go with it; those of a staging folder are moved, others copied.
        """
        digest = self._finder.find(ref).digest
        with system_errors(self.home), publish.staged_files(self._home, files) as staged:
            detail = publish.evidence_detail(type, body, staged)
            with self._home.lock():
                store(self._home, staged)
                with self._writing() as catalog:
                    self._finder.find(digest)
                    catalog.append(Event.now("evidence", digest, **detail))

    # Gates.

    def gates(self) -> builtins.list[Gate]:
        """The plugins that have guarded this registry, and must be loaded to change what they guard."""
        return self._catalog.gates()

    def check_gates(self, hook: str) -> None:
        """Raise ``FtregError`` if a gate that has guarded this registry with ``hook`` is not loaded.

        Long work calls this first: its result could not be published.
        """
        gates.check_loaded(self._catalog, self.host, hook)

    def check_deployment(self, ref: str, deployment: str) -> None:
        """Ask the gates whether a version may be deployed; raise ``FtregError`` if one refuses or is not loaded."""
        version = self.get(ref)
        self._ask_gates(
            "ftreg_check_deployment",
            f"{version.ref} cannot be deployed",
            version=version,
            deployment=deployment,
            evidence=self._records(version.digest),
        )

    def release_gate(self, plugin: str) -> None:
        """Let a gate guard this registry no longer; the event log says who decided it.

        A plugin that is still installed is enlisted again when it is next asked.

        Raises:
            UnknownName: No plugin of that name guards this registry.
        """
        with self._writing() as catalog:
            gates.release(catalog, plugin)

    # Upkeep.

    def verify(self, ref: str | None = None, *, quick: bool = False, progress: Progress | None = None) -> VerifyReport:
        """Check that the registry, or a version and what it was made from, holds what it says.

        Args:
            ref: Which version; None checks everything.
            quick: Look at sizes and seals only; by default every byte is hashed.
            progress: Where to say how far it is.
        """
        digests = None if ref is None else [self._finder.find(ref).digest]
        with system_errors(self.home), self._home.lock(), self._catalog.transaction(write=False):
            return Verifier(self._home, self._catalog, full=not quick, progress=progress or NullProgress()).run(digests)

    def gc(self, *, grace: float = 3600.0, dry_run: bool = False, timeout: float = 60.0) -> GcReport:
        """Free what no version reaches, and what killed processes left in staging.

        Args:
            grace: Seconds for which unreferenced files stay.
            dry_run: Only say what would be freed.
            timeout: Seconds to wait for writers to finish.

        Raises:
            RegistryBusy: Writers did not finish in time.
            CorruptRegistry: A manifest is damaged, so that it cannot be known what it reaches.
        """
        with system_errors(self.home), self._home.lock(exclusive=not dry_run, timeout=timeout):
            self._catalog.renew()
            plan = collect.plan_collection(self._home, self._catalog, grace=grace)
            report = plan.report(dry_run=dry_run)
            if not dry_run:
                collect.collect(self._catalog, plan)
        if plan.digests and not dry_run:
            self._mirror()
        return report

    @staticmethod
    def rebuild(home: Path | str | None = None) -> RebuildReport:
        """Make the catalog anew from the manifests and the event log; the old one is kept as ``registry.db-old``.

        Raises:
            CorruptRegistry: There is no event log, or it cannot be read.
            InputError: There is no registry.
        """
        layout = Home(find_home(home))
        with system_errors(layout.path):
            if not layout.is_ready():
                raise InputError("is no registry", where=str(layout.path))
            with layout.lock(exclusive=True):
                return rebuild(layout)

    # Inside.

    @contextmanager
    def _writing(self) -> Iterator[Catalog]:
        """One transaction on the catalog, kept apart from ``gc`` and ``rebuild``; then the journal catches up."""
        with system_errors(self.home), self._home.lock():
            self._catalog.renew()
            with self._catalog.transaction():
                yield self._catalog
        self._mirror()

    def _mirror(self) -> None:
        """Bring the journal up to date. What was committed stands, so failing here is worth a warning only."""
        try:
            catch_up(self._home.events, self._catalog)
        except (OSError, FtregError) as error:
            logger.warning(
                "%s is behind the catalog, and catches up with the next change: %s", self._home.events, error
            )

    def _ask_gates(self, hook: str, refused: str, **arguments: Any) -> None:
        """Raise ``FtregError`` if a gate refuses, or is not loaded; gates that are new here are written down."""
        self.check_gates(hook)
        if new := gates.unrecorded(self._catalog, self.host, hook):
            with self._writing() as catalog:
                gates.enlist(catalog, new, hook)
        gates.ask(self.host, hook, refused, **arguments)

    def _records(self, digest: str) -> builtins.list[Mapping[str, Json]]:
        """The evidence on a digest, as gates see it."""
        return [
            {"type": event.detail["type"], "at": event.at, "body": event.detail["body"]}
            for event in self._catalog.evidence(digest)
        ]

    def _notify(self, hook: str, **arguments: Any) -> None:
        self.host.notify(hook, **arguments)

    def _add_tags(self, catalog: Catalog, version: Summary, tags: Mapping[str, str]) -> None:
        """Set the tags that a version does not have yet, in the caller's transaction."""
        new = {key: value for key, value in tags.items() if version.tags.get(key) != value}
        publish.record_tags(catalog, Event.now("tagged", version.digest, version.name, version.number), new)

    def _evidence(self, event: Event) -> EvidenceRecord:
        entries = evidence_files(event)
        files: dict[str, Path] = {}
        if entries:
            with system_errors(self.home):
                folder = open_view(self._home, evidence_key(entries), entries)
            files = {entry.path: folder / entry.path for entry in entries}
        return EvidenceRecord(event.detail["type"], event.at, event.detail["body"], files)


def _create(home: Home) -> None:
    """Set up a home that is not there yet; of several processes at once, one does it and the others wait."""
    if home.is_ready():
        return
    home.path.mkdir(parents=True, exist_ok=True)
    with home.lock(exclusive=True):
        if not home.is_ready():
            home.make_folders()
            catalog = Catalog(home.database, create=True)
            catalog.migrate()
            catalog.close()
            home.mark_ready()


def _open(home: Home) -> Catalog:
    """Open the catalog of a home that is set up, and bring its schema up to date."""
    if not home.database.exists():
        raise catalog_missing(home.database)
    home.make_folders()
    catalog = Catalog(home.database)
    if catalog.is_outdated:
        with home.lock(exclusive=True):
            catalog.migrate()
    return catalog
