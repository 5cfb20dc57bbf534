"""Lineage: collects everything that a version was made from and everything that was made from it."""

from __future__ import annotations

from ftreg.registry.catalog import Catalog
from ftreg.registry.finder import Finder
from ftreg.registry.records import Lineage, Summary


def find_lineage(catalog: Catalog, finder: Finder, root: Summary) -> Lineage:
    """Collect all ancestors and descendants of ``root``.

    A parent whose manifest the catalog does not know has edges but no node.
    """
    digests = sorted({*catalog.closure([root.digest], up=True), *catalog.closure([root.digest], up=False)})
    chosen = {digest: finder.by_digest(digest) for digest in digests if catalog.has(digest)} | {root.digest: root}
    live = {digest: [version.ref for version in reversed(catalog.versions(digest=digest))] for digest in chosen}
    also = {digest: tuple(ref for ref in refs if ref != chosen[digest].ref) for digest, refs in live.items()}
    return Lineage(
        root=root.digest,
        nodes={digest: finder.version(found) for digest, found in chosen.items()},
        edges=tuple(edge for edge in catalog.edges_of(digests) if edge.parent in digests),
        deleted=frozenset(digest for digest, refs in live.items() if not refs),
        also={digest: refs for digest, refs in also.items() if refs},
    )
