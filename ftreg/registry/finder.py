"""Finding versions: resolves references to versions, with helpful errors."""

from __future__ import annotations

from ftreg.core.errors import CorruptRegistry, InputError, UnknownName
from ftreg.core.names import check_name, parse_ref
from ftreg.core.types import State, Version
from ftreg.registry.blobs import read_manifest
from ftreg.registry.catalog import Catalog, manifest_row
from ftreg.registry.home import Home
from ftreg.registry.records import Summary

_MOST_CANDIDATES = 10


class Finder:
    """Finds versions in a catalog; its errors propose what was probably meant."""

    def __init__(self, home: Home, catalog: Catalog) -> None:
        self._home = home
        self._catalog = catalog

    def find(self, ref: str) -> Summary:
        """Return the version that ``ref`` names.

        Raises:
            UnknownName: The version does not exist.
            InputError: ``ref`` is not a reference, or several digests start with it.
        """
        parsed = parse_ref(ref)
        if parsed.name is None:
            return self.by_digest(self._digest(ref))
        found = self._catalog.versions(name=parsed.name, number=parsed.number, alias=parsed.alias, limit=1)
        if found:
            return found[0]
        self.check_known(parsed.name)
        if parsed.alias is not None:
            known = [f"{parsed.name}@{alias}" for alias in self._catalog.aliases(parsed.name)]
            raise UnknownName(
                "alias", ref, known, hint=f"Set it: `registry.set_alias('{parsed.name}:NUMBER', {parsed.alias!r})`"
            )
        raise self.unknown_version(ref, parsed.name)

    def find_pointer(self, ref: str) -> Summary:
        """Return the one version that ``ref`` names, in order to change it.

        Raises:
            UnknownName: The version does not exist or was deleted.
            InputError: ``ref`` is a digest that several versions share.
        """
        found = self.find(ref)
        if parse_ref(ref).digest_prefix:
            several = [version.ref for version in self._catalog.versions(digest=found.digest)]
            if not several:
                raise UnknownName("version", ref, [], hint=f"{found.ref} was deleted.")
            if len(several) > 1:
                raise InputError(f"{ref} is the digest of {' and '.join(several)}", hint="Name one by name and number.")
        return found

    def _digest(self, prefix: str) -> str:
        """Return the one digest that starts with ``prefix``."""
        found = self._catalog.digests(prefix, _MOST_CANDIDATES + 1)
        if not found:
            raise UnknownName("version", prefix, [], hint="See `registry.list()`")
        if len(found) > 1:
            shown = [f"{digest[:19]} ({self.by_digest(digest).ref})" for digest in found[:_MOST_CANDIDATES]]
            more = ", and more" if len(found) > _MOST_CANDIDATES else ""
            raise InputError(
                f"several digests start with {prefix!r}: {', '.join(shown)}{more}", hint="Write more of the digest."
            )
        return found[0]

    def by_digest(self, digest: str) -> Summary:
        """Return the oldest version of a digest, since a later name for the same files does not rename them.

        If all were deleted, return the one that was published last.
        """
        found = self._catalog.versions(digest=digest)
        if found:
            return found[-1]
        past = self._catalog.publications(digest)
        if not past:
            raise CorruptRegistry(
                "the event log does not say how this came into the registry",
                where=digest,
                hint="Run `registry.verify()`",
            )
        event = past[-1]
        assert event.name is not None
        assert event.number is not None
        kind, size, producer, _ = manifest_row(read_manifest(self._home, digest))
        state: State = "rebuildable" if digest in self._catalog.evicted() else "here"
        return Summary(event.name, event.number, digest, kind, size, event.at, producer, (), {}, state)

    def ref_of(self, digest: str, name: str | None) -> str | None:
        """Return the reference of a digest, as a version of ``name`` if it is or was one; None if it is not known."""
        past = self._catalog.publications(digest)
        own = [event.ref for event in past if event.name == name]
        live = [version.ref for version in self._catalog.versions(digest=digest)]
        if own or live:
            return own[-1] if own else live[-1]
        return past[-1].ref if past else None

    def check_known(self, name: str) -> None:
        """Raise ``UnknownName`` if ``name`` has, and had, no versions."""
        if name not in self._catalog.known_names():
            raise UnknownName("model", check_name(name), self._catalog.names(), hint="See `registry.list()`")

    def unknown_version(self, ref: str, name: str) -> UnknownName:
        """Return the error for a version number that ``name`` does not have."""
        known = [version.ref for version in self._catalog.versions(name=name)]
        return UnknownName("version", ref, known, hint=None if known else f"All versions of {name} were deleted.")

    def version(self, found: Summary) -> Version:
        """Read the manifest of ``found``, and return the whole version."""
        manifest = read_manifest(self._home, found.digest)
        return Version(
            found.name,
            found.number,
            found.digest,
            found.kind,
            found.size,
            found.created,
            manifest,
            found.aliases,
            found.tags,
            found.state,
        )
