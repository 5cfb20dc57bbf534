"""Finding versions: what a reference names."""

from __future__ import annotations

from ftreg.core.errors import CorruptRegistry, InputError, UnknownName
from ftreg.core.names import check_name, parse_ref
from ftreg.core.types import Version
from ftreg.registry.blobs import read_manifest
from ftreg.registry.catalog import Catalog, manifest_row
from ftreg.registry.home import Home
from ftreg.registry.records import Summary

_MOST_CANDIDATES = 10


class Finder:
    """Finds versions in a catalog, and says what was meant where it finds none."""

    def __init__(self, home: Home, catalog: Catalog) -> None:
        self._home = home
        self._catalog = catalog

    def find(self, ref: str) -> Summary:
        """What ``ref`` names; raise ``UnknownName`` where it names nothing, ``InputError`` where it is no reference."""
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
                "alias", ref, known, hint=f"Set it: ftreg models alias {parsed.name}:NUMBER {parsed.alias}"
            )
        raise self.unknown_version(ref, parsed.name)

    def find_pointer(self, ref: str) -> Summary:
        """The one version that ``ref`` names, to be changed; raise for a digest of several, or of a deleted one."""
        found = self.find(ref)
        if parse_ref(ref).digest_prefix:
            several = [version.ref for version in self._catalog.versions(digest=found.digest)]
            if not several:
                raise UnknownName("version", ref, [], hint=f"{found.ref} was deleted.")
            if len(several) > 1:
                raise InputError(f"{ref} is {' and '.join(several)}", hint="Say which by name and number.")
        return found

    def _digest(self, prefix: str) -> str:
        """The one digest that starts with ``prefix``."""
        found = self._catalog.digests(prefix, _MOST_CANDIDATES + 1)
        if not found:
            raise UnknownName("version", prefix, [], hint="See: ftreg models list")
        if len(found) > 1:
            shown = [f"{digest[:19]} ({self.by_digest(digest).ref})" for digest in found[:_MOST_CANDIDATES]]
            more = ", and more" if len(found) > _MOST_CANDIDATES else ""
            raise InputError(f"{prefix!r} is the beginning of several digests: {', '.join(shown)}{more}")
        return found[0]

    def by_digest(self, digest: str) -> Summary:
        """The newest version of a digest; where all were deleted, the newest of those."""
        found = self._catalog.versions(digest=digest, limit=1)
        if found:
            return found[0]
        event = self._catalog.last_name(digest)
        if event is None or event.name is None or event.number is None:
            raise CorruptRegistry(
                "no event says how this came into the registry", where=digest, hint="Run: ftreg verify"
            )
        kind, size, producer, _ = manifest_row(read_manifest(self._home, digest))
        return Summary(event.name, event.number, digest, kind, size, event.at, producer, (), {})

    def check_known(self, name: str) -> None:
        """Raise ``UnknownName`` for a name that has, and had, no versions."""
        if name not in self._catalog.known_names():
            raise UnknownName("model", check_name(name), self._catalog.names(), hint="See: ftreg models list")

    def unknown_version(self, ref: str, name: str) -> UnknownName:
        """The error for a number that ``name`` does not have."""
        known = [version.ref for version in self._catalog.versions(name=name)]
        return UnknownName("version", ref, known, hint=None if known else f"All versions of {name} were deleted.")

    def version(self, found: Summary) -> Version:
        """``found`` with its manifest."""
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
        )
