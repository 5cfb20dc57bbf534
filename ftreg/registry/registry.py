"""``Registry``: the public interface of this package. It reads, publishes, tags, deletes, verifies and collects."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Json
from ftreg.core.names import check_alias, check_name, parse_ref
from ftreg.core.types import NullProgress, Problem, Progress, RunInfo, Source, Version
from ftreg.registry import collect, eviction, evidence, gates, policies, publish, staging
from ftreg.registry.blobs import check_blob, measure, read_blob, store
from ftreg.registry.catalog import Catalog
from ftreg.registry.failpoints import failpoint
from ftreg.registry.finder import Finder
from ftreg.registry.home import Home, find_home
from ftreg.registry.journal import catch_up
from ftreg.registry.lineage import find_lineage
from ftreg.registry.policies import Policy, goldens_of
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
    Usage,
    VerifyReport,
)
from ftreg.registry.system import catalog_missing, system_errors
from ftreg.registry.usage import measure_usage
from ftreg.registry.verify import Verifier
from ftreg.registry.views import open_view, view_key

logger = logging.getLogger("ftreg.registry")


class Registry:
    """A registry of versions in one folder. Any number of processes may use it; each thread opens its own.

    Args:
        home: Its folder; by default ``$FTREG_HOME``, else the nearest ``.ftreg`` in this folder or above it, else the
            user's data folder. It is created if it does not exist.
        host: The plugins whose gates and observers are called; by default all that are installed, as restricted by
            ``FTREG_PLUGINS``.

    Raises:
        InputError: The folder holds files that do not belong to a registry.
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
        self._documented: builtins.list[str] = []
        self._make_again: Callable[[Version], None] | None = None

    @property
    def host(self) -> PluginHost:
        """The plugins that guard and observe this registry, loaded on first use."""
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

    @property
    def documented(self) -> tuple[str, ...]:
        """References of the versions that evidence was added to through this object, oldest first."""
        return tuple(self._documented)

    @contextmanager
    def making_again(self, make: Callable[[Version], None]) -> Iterator[None]:
        """During the block, let ``source`` call ``make`` for a version whose files were given up; it restores them."""
        before, self._make_again = self._make_again, make
        try:
            yield
        finally:
            self._make_again = before

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
        """Return the version that ``ref`` names: ``name`` (its newest), ``name:3``, ``name@alias`` or a digest prefix.

        Of several versions with the same digest, a digest names the oldest. It also finds a deleted version as long as
        another version was made from it.

        Raises:
            UnknownName: The version does not exist.
            InputError: ``ref`` is not a reference, or several digests start with it.
        """
        return self._finder.version(self._finder.find(ref))

    def source(self, ref: str) -> Source:
        """Open a version for reading: its ``path`` is a folder that libraries can load. Do not write there.

        Files that were given up are made again first, by the function that ``making_again`` has set.

        Raises:
            UnknownName: The version does not exist.
            CorruptRegistry: A stored file is missing or was changed.
            FtregError: Its files were given up, and cannot be made again here.
        """
        source = self._open_files(ref)
        if source is None:
            version = self.get(ref)
            if self._make_again is not None:
                self._make_again(version)
                source = self._open_files(ref)
            if source is None:
                hint = f"Make them again: `ftreg.restore({version.ref!r})`"
                raise FtregError(f"the files of {version.ref} were given up", hint=hint)
        return source

    def _open_files(self, ref: str) -> Source | None:
        """Open a version for reading; return None if its files were given up."""
        with system_errors(self.home), self._home.lock():  # so that nobody gives them up meanwhile
            version = self.get(ref)
            if version.state == "rebuildable":
                return None
            path = open_view(self._home, view_key(version.digest), version.manifest.files)
        return Source(version.ref, version.digest, path, version.manifest, self.source)

    def check_files(self, ref: str, *, quick: bool = False) -> None:
        """Hash the files of a version; those that were given up are not checked.

        Args:
            ref: The version.
            quick: Compare only sizes and seals.

        Raises:
            UnknownName: The version does not exist.
            CorruptRegistry: A file is missing or was changed.
        """
        with system_errors(self.home), self._home.lock():
            version = self.get(ref)
            for entry in eviction.kept_files(version.digest, version.manifest, self._catalog.evicted()):
                check_blob(self._home, entry, full=not quick)

    def read_file(self, ref: str, path: str) -> bytes:
        """Return the content of one file of a version.

        Raises:
            UnknownName: The version does not exist, or has no such file.
            CorruptRegistry: The file is missing or was changed.
        """
        version = self.get(ref)
        entries = {entry.path: entry for entry in version.manifest.files}
        if path not in entries:
            raise UnknownName("file", path, entries, where=version.ref)
        with system_errors(self.home), self._home.lock():
            return read_blob(self._home, entries[path])

    def list(
        self,
        *,
        name: str | None = None,
        kind: str | None = None,
        tags: Mapping[str, str] | None = None,
        limit: int | None = 50,
    ) -> builtins.list[Version]:
        """Return the versions that match all given filters, newest first.

        Args:
            name: Only versions of this name.
            kind: Only versions of this kind.
            tags: Only versions that have all of these tags.
            limit: At most this many; None for all.

        Raises:
            UnknownName: No version has, or had, this name.
        """
        return [self._finder.version(found) for found in self.summaries(name=name, kind=kind, tags=tags, limit=limit)]

    def summaries(
        self,
        *,
        name: str | None = None,
        kind: str | None = None,
        tags: Mapping[str, str] | None = None,
        digest: str | None = None,
        limit: int | None = 50,
    ) -> builtins.list[Summary]:
        """Return what ``list`` does, without the manifests; this reads the catalog only.

        With ``digest``, these are the versions with this very digest: the same files under several names.
        """
        if name is not None:
            self._finder.check_known(name)
        return self._catalog.versions(name=name, kind=kind, tags=tags, digest=digest, limit=limit)

    def ref_of(self, digest: str, *, name: str | None = None) -> str | None:
        """Return the reference ``name:number`` of a digest, also if its version was deleted and collected.

        Args:
            digest: The whole digest.
            name: Prefer the version of this name, if the digest has, or had, one; otherwise it is the oldest version.

        Returns:
            The reference; None if the digest was never published here.
        """
        return self._finder.ref_of(digest, name)

    def count(self) -> int:
        """Return the number of versions."""
        return self._catalog.count()

    def find_produced(self, key: str, *, name: str | None = None) -> Version | None:
        """Return the newest version (of ``name``, if given) that has this ``cache_key``; None if there is none."""
        found = self._catalog.versions(cache_key=key, name=name, limit=1)
        return self._finder.version(found[0]) if found else None

    def evidence(self, ref: str, type: str | None = None) -> builtins.list[EvidenceRecord]:  # noqa: A002
        """Return the evidence on a version's digest, oldest first: all of it, or that of one type.

        Raises:
            UnknownName: The version does not exist.
            CorruptRegistry: A file of the evidence is missing or was changed.
        """
        events = self._catalog.evidence(self._finder.find(ref).digest)
        with system_errors(self.home):
            return [
                evidence.read_evidence(self._home, event) for event in events if type in (None, event.detail["type"])
            ]

    def events(self, ref: str | None = None, *, limit: int | None = None) -> builtins.list[Event]:
        """Return the event log, newest first: all of it, or the events about a name or a version, deleted or not.

        Raises:
            UnknownName: There is, and was, no such name or version.
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
        """Return the event that set ``alias`` to the version it had at a given time; None if it was not set then.

        Args:
            name: The model's name.
            alias: The alias.
            when: The time; local time if it has no time zone.
        """
        past = [
            event
            for event in self._catalog.alias_history(name, alias)
            if datetime.fromisoformat(event.at) <= when.astimezone()
        ]
        return past[-1] if past and past[-1].action == "alias_set" else None

    def lineage(self, ref: str) -> Lineage:
        """Return all ancestors and descendants of a version; raise ``UnknownName`` if the version does not exist."""
        return find_lineage(self._catalog, self._finder, self._finder.find(ref))

    # Writing.

    def staging(self) -> AbstractContextManager[staging.Staging]:
        """Create a folder to write a version in, on the registry's file system; it is removed when the block ends."""
        return staging.open_staging(self._home)

    def copy_in(
        self, folder: Path, target: Path, *, patterns: Sequence[str] = ("*",), within: Path | None = None
    ) -> None:
        """Copy any folder into a staging folder; see ``ftreg.registry.staging.copy_in``."""
        with system_errors(self.home):
            staging.copy_in(folder, target, patterns=patterns, within=within)

    def prepare(self, draft: Draft) -> Prepared:
        """Hash a draft, so that its digest is known before it is published; its staging must stay open until then.

        Raises:
            FtregError: The files are not plain files, or are not in a staging folder of this registry.
            DiskFull: The disk is full.
        """
        if not self._home.owns(draft.folder):
            raise FtregError(
                "the folder is not in a staging folder of this registry",
                where=str(draft.folder),
                hint="Write into `staging.files` of `with registry.staging() as staging:`, or use registry.copy_in().",
            )
        with system_errors(self.home):
            return publish.prepare(draft)

    def publish(self, name: str, draft: Draft | Prepared, *, tags: Mapping[str, str] | None = None) -> Version:
        """Publish a draft as a version of ``name``, completely and durably or not at all.

        If ``name`` already has a version with the same digest, that version is returned, with the tags added.

        Raises:
            InputError: The name, a tag or a file's name cannot be used.
            FtregError: A gate refuses, a parent is not in the registry, or the files are not plain files.
            DiskFull: The disk is full.
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
        records = evidence.evidence_of(draft, report)
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
                    publish.add_tags(catalog, known[0], tags)
                else:
                    publish.record_version(catalog, name, manifest, tags, records)
                if digest in catalog.evicted():  # its files have just been stored again
                    found = catalog.versions(name=name, digest=digest)[0]
                    catalog.append(Event.now("restored", digest, name, found.number))
        version = self._finder.version(self._catalog.versions(name=name, digest=digest)[0])
        if is_new:
            self._published.append(version.ref)
            self.host.notify("ftreg_version_created", version=version)
        return version

    def set_alias(self, ref: str, alias: str) -> Version:
        """Let ``alias`` of the version's name point to the version, and return the version.

        Raises:
            UnknownName: The version does not exist.
            InputError: ``alias`` is not a name, or it is a number.
            FtregError: A gate refuses.
        """
        check_alias(alias)
        target = self._finder.find_pointer(ref)
        if alias in target.aliases:
            return self._finder.version(target)
        version = self._finder.version(target)
        policy = self.policy(version.name)
        self._ask_gates(
            "ftreg_check_promotion",
            f"{target.name}@{alias} cannot move to {target.ref}",
            own=self._lacks(version, policy) if policy and policy.alias == alias else (),
            version=version,
            alias=alias,
            evidence=self._evidence_for_gates(target.digest),
        )
        with self._writing() as catalog:
            self._finder.find_pointer(target.ref)
            past = catalog.versions(name=target.name, alias=alias)
            old = past[0].digest if past else None
            catalog.append(Event.now("alias_set", target.digest, target.name, target.number, alias=alias, old=old))
        self.host.notify("ftreg_alias_moved", name=target.name, alias=alias, old=old, new=target.digest)
        return self.get(target.ref)

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias; raise ``UnknownName`` if it is not set."""
        with self._writing() as catalog:
            old = self._finder.find(f"{name}@{alias}")
            catalog.append(Event.now("alias_removed", old.digest, name, old.number, alias=alias, old=old.digest))
        self.host.notify("ftreg_alias_moved", name=name, alias=alias, old=old.digest, new=None)

    def tag(self, ref: str, key: str, value: str) -> None:
        """Set a tag of a version; raise ``InputError`` if the key or the value cannot be used."""
        publish.check_tag(key, value)
        with self._writing() as catalog:
            publish.add_tags(catalog, self._finder.find_pointer(ref), {key: value})

    def untag(self, ref: str, key: str) -> None:
        """Remove a tag of a version; raise ``UnknownName`` if the version has no such tag."""
        with self._writing() as catalog:
            version = self._finder.find_pointer(ref)
            if key not in version.tags:
                raise UnknownName("tag", key, version.tags, where=version.ref)
            catalog.append(Event.now("untagged", version.digest, version.name, version.number, key=key))

    def delete(self, ref: str, *, force: bool = False) -> tuple[str, ...]:
        """Delete a version; the next ``gc`` frees its files unless another version needs them.

        Args:
            ref: The version, by number or digest; a name alone or an alias is refused, since its meaning changes.
            force: Delete it even if others were made from it. Its files are kept for them.

        Returns:
            The versions that its files are kept for: those with the same digest, and those that were made from it.

        Raises:
            InputError: ``ref`` is a name or an alias, an alias points to the version, or others were made from it.
        """
        parsed = parse_ref(ref)
        if parsed.number is None and parsed.digest_prefix is None:
            hint = f"Name it by its number, such as {self._finder.find(ref).ref}."
            raise InputError("the reference does not say which version to delete", where=ref, hint=hint)
        with self._writing() as catalog:
            version = self._finder.find_pointer(ref)
            if version.aliases:
                calls = [f"\n  `registry.remove_alias({version.name!r}, {alias!r})`" for alias in version.aliases]
                raise InputError(
                    f"{version.ref} cannot be deleted: it is {', '.join(f'@{alias}' for alias in version.aliases)}",
                    hint=f"Remove the {'alias' if len(calls) == 1 else 'aliases'} first:{''.join(calls)}",
                )
            children = sorted(self._finder.by_digest(child).ref for child in catalog.children(version.digest))
            if children and not force:
                raise InputError(
                    f"{version.ref} cannot be deleted: it is a parent of {', '.join(children)}",
                    hint="Delete it anyway with `force=True`; its files are kept as long as other versions need them.",
                )
            catalog.append(Event.now("deleted", version.digest, version.name, version.number))
            return (*(other.ref for other in catalog.versions(digest=version.digest)), *children)

    def evict(self, ref: str, *, keep: Collection[str] = (), timeout: float = 60.0) -> int:
        """Give up the files of a version, which is rebuildable from then on; return the bytes that this freed.

        Its manifest, lineage and evidence stay, as do files that other versions or evidence need. This does not check
        whether the same files can be made again; ``ftreg.evict`` does.

        Args:
            ref: The version.
            keep: Paths of files to keep.
            timeout: Wait this many seconds for writers to finish.

        Raises:
            InputError: The version was imported.
            RegistryBusy: Writers did not finish in time.
        """
        with system_errors(self.home), self._home.lock(exclusive=True, timeout=timeout):
            self._catalog.renew()
            version = self.get(ref)
            eviction.check_evictable(version.manifest, version.ref)
            if version.state == "here":
                with self._catalog.transaction():
                    event = Event.now("evicted", version.digest, version.name, version.number, kept=sorted(keep))
                    self._catalog.append(event)
            failpoint("evict-recorded")
            freed = eviction.free_files(self._home, self._catalog, version.digest)
        self._mirror()
        return freed

    def restore(self, ref: str, made: Prepared) -> None:
        """Take back the files of a rebuildable version from work that was done again; its staging must still be open.

        Raises:
            FtregError: The files are not those of the version.
        """
        version = self.get(ref)
        staged = eviction.choose_staged(version.ref, version.manifest, made.files)
        with system_errors(self.home), self._home.lock():
            store(self._home, staged)
            with self._writing() as catalog:
                if version.digest in catalog.evicted():
                    catalog.append(Event.now("restored", version.digest, version.name, version.number))

    def add_evidence(
        self,
        ref: str,
        type: str,  # noqa: A002
        body: Mapping[str, Json],
        files: Path | None = None,
    ) -> EvidenceRecord:
        """Attach evidence to a version's digest; it is never changed or removed.

        Args:
            ref: The version.
            type: What kind of evidence: ``evaluation``, ``certificate``, or a name of your own.
            body: What was found out, as JSON.
            files: A folder of files that belong to it; files in a staging folder are moved, others are copied.

        Returns:
            The record, as ``evidence`` returns it.
        """
        version = self._finder.find(ref)
        with system_errors(self.home), evidence.staged_files(self._home, files) as staged:
            detail = evidence.evidence_detail(type, body, staged)
            event = Event.now("evidence", version.digest, version.name, version.number, **detail)
            with self._home.lock():
                store(self._home, staged)
                with self._writing() as catalog:
                    self._finder.find(version.digest)
                    catalog.append(event)
            self._documented.append(version.ref)
            return evidence.read_evidence(self._home, event)

    # Gates.

    def gates(self) -> builtins.list[Gate]:
        """Return the gates on record: while one of them is not loaded, what it guards cannot be changed."""
        return self._catalog.gates()

    def check_gates(self, hook: str) -> None:
        """Raise ``FtregError`` if a gate on record for ``hook`` is not loaded.

        Call this before long work whose result could not be published then.
        """
        gates.check_loaded(self._catalog, self.host, hook)

    def check_run(self, run: RunInfo, *, dry_run: bool = False) -> None:
        """Ask the gates whether a run may start; raise ``FtregError`` if one refuses or is not loaded.

        A gate is recorded when it is first asked, unless this is a ``dry_run``, which changes nothing.
        """
        what = f"{run.type} {run.name} cannot make {run.target}"
        self._ask_gates("ftreg_check_run", what, record=not dry_run, run=run)

    def check_deployment(self, ref: str, deployment: str) -> None:
        """Ask the gates whether a version may be deployed; raise ``FtregError`` if one refuses or is not loaded."""
        version = self.get(ref)
        policy = self.policy(version.name)
        self._ask_gates(
            "ftreg_check_deployment",
            f"{version.ref} cannot be deployed",
            own=self._lacks(version, policy) if policy else (),
            version=version,
            deployment=deployment,
            evidence=self._evidence_for_gates(version.digest),
        )

    def policy(self, name: str) -> Policy | None:
        """Return the policy of a name; None if it has none.

        Raises:
            UnknownName: No version has, or had, this name.
            FtregError: The policy has a rule that this ftreg does not know, so nothing that it guards may change.
        """
        self._finder.check_known(name)
        event = self._catalog.policy_event(name)
        rules = event.detail["policy"] if event else None
        return None if rules is None else Policy.read(name, rules)

    def set_policy(self, name: str, policy: Policy | None) -> None:
        """Set what evidence versions of ``name`` need, or remove it with None; the event log says who did it.

        It is enforced from then on for everyone who uses the registry, when the policy's alias moves and when a version
        of the name is deployed. Where the alias points now does not change.

        Raises:
            UnknownName: No version has, or had, this name.
        """
        self._finder.check_known(name)
        with self._writing() as catalog:
            catalog.append(Event.now("policy_set", name=name, policy=None if policy is None else asdict(policy)))

    def release_gate(self, plugin: str) -> None:
        """Strike a gate off the record, so that changes are possible without it; the event log says who did it.

        A plugin that is still installed is recorded again when it is next called.

        Raises:
            UnknownName: No gate of this name is on record.
        """
        with self._writing() as catalog:
            gates.release(catalog, plugin)

    # Upkeep.

    def verify(self, ref: str | None = None, *, quick: bool = False, progress: Progress | None = None) -> VerifyReport:
        """Check the whole registry, or a version with its ancestors, for missing and changed files and records.

        Args:
            ref: The version; None checks everything.
            quick: Compare only sizes and seals; by default every file is hashed.
            progress: Where to report the bytes checked.
        """
        digests = None if ref is None else [self._finder.find(ref).digest]
        with system_errors(self.home), self._home.lock(), self._catalog.transaction(write=False):
            return Verifier(self._home, self._catalog, full=not quick, progress=progress or NullProgress()).run(digests)

    def usage(self) -> Usage:
        """Return what takes how many bytes."""
        with system_errors(self.home), self._home.lock(), self._catalog.transaction(write=False):
            return measure_usage(self._home, self._catalog, self._finder)

    def gc(
        self, *, grace: float = 3600.0, runs: bool = False, dry_run: bool = False, timeout: float = 60.0
    ) -> GcReport:
        """Free what no version reaches, what killed processes left in staging, and checkpoints of published trainings.

        Args:
            grace: Keep unreferenced files that are younger than this many seconds.
            runs: Free the checkpoints of unfinished trainings too, unless they are younger or the training is running.
                They cannot be resumed then.
            dry_run: Only report what would be freed.
            timeout: Wait this many seconds for writers to finish.

        Raises:
            RegistryBusy: Writers did not finish in time.
            CorruptRegistry: A manifest is damaged, so it is not known which files it needs.
        """
        with system_errors(self.home), self._home.lock(exclusive=not dry_run, timeout=timeout):
            self._catalog.renew()
            garbage = collect.find_garbage(self._home, self._catalog, grace=grace, runs=runs)
            report = garbage.report(dry_run=dry_run)
            if not dry_run:
                collect.collect(self._catalog, garbage)
        if garbage.digests and not dry_run:
            self._mirror()
        return report

    @staticmethod
    def rebuild(home: Path | str | None = None) -> RebuildReport:
        """Rebuild the catalog from the manifests and the journal; the old one is kept as ``registry.db-old``.

        Raises:
            CorruptRegistry: There is no journal, or it cannot be read.
            InputError: ``home`` is not a registry.
        """
        layout = Home(find_home(home))
        with system_errors(layout.path):
            if not layout.is_ready():
                raise InputError(
                    "this folder is not a registry", where=str(layout.path), hint="Name one with `home` or $FTREG_HOME."
                )
            with layout.lock(exclusive=True):
                return rebuild(layout)

    # Inside.

    @contextmanager
    def _writing(self) -> Iterator[Catalog]:
        """Run the body in one transaction that excludes ``gc`` and ``rebuild``; then bring the journal up to date."""
        with system_errors(self.home), self._home.lock():
            self._catalog.renew()
            with self._catalog.transaction():
                yield self._catalog
        self._mirror()

    def _mirror(self) -> None:
        """Bring the journal up to date; a failure is only logged, since the transaction is already committed."""
        try:
            catch_up(self._home.events, self._catalog)
        except (OSError, FtregError) as error:
            logger.warning("%s could not be written; it catches up with the next change: %s", self._home.events, error)

    def _ask_gates(
        self, hook: str, refused: str, *, record: bool = True, own: Sequence[Problem] = (), **arguments: Any
    ) -> None:
        """Call the gates of ``hook`` and record new ones; raise ``FtregError`` if one refuses or is not loaded.

        ``own`` are problems that the registry itself has found: any of them refuses too.
        """
        self.check_gates(hook)
        if record and (new := gates.unrecorded(self._catalog, self.host, hook)):
            with self._writing() as catalog:
                gates.enlist(catalog, new, hook)
        gates.ask(self.host, hook, refused, own, **arguments)

    def _lacks(self, version: Version, policy: Policy) -> builtins.list[Problem]:
        """Return what a version lacks under the policy of its name."""
        goldens = self._catalog.versions(name=goldens_of(version.name), limit=1)
        history = self._catalog.alias_history(version.name, policy.alias)
        held = [event for event in history if event.action == "alias_set" and event.digest is not None]
        champion = held[-1] if held else None  # also if the alias was removed since, so that this is no way around
        return policies.problems(
            policy,
            policies.Candidate(
                version,
                self._evidence_for_gates(version.digest),
                goldens[0].digest if goldens else None,
                champion.ref if champion else None,
                self._evidence_for_gates(champion.digest) if champion and champion.digest else (),
                any(event.digest == version.digest for event in held),
            ),
        )

    def _evidence_for_gates(self, digest: str) -> builtins.list[Mapping[str, Json]]:
        """Return the evidence on a digest as gates receive it."""
        return [evidence.evidence_for_gates(event) for event in self._catalog.evidence(digest)]


def _create(home: Home) -> None:
    """Set up a home that does not exist yet; of several processes at once, one does it and the others wait."""
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
    """Open the catalog of a home that is set up, and migrate its schema if necessary."""
    if not home.database.exists():
        raise catalog_missing(home.database)
    home.make_folders()
    catalog = Catalog(home.database)
    if catalog.is_outdated:
        with home.lock(exclusive=True):
            catalog.migrate()
    return catalog
