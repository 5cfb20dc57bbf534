"""Lineage: collects everything that a version was made from and everything that was made from it."""

from __future__ import annotations

from ftreg.registry.catalog import Catalog
from ftreg.registry.finder import Finder
from ftreg.registry.records import Lineage


def find_lineage(catalog: Catalog, finder: Finder, root: str) -> Lineage:
    """Collect all ancestors and descendants of the digest ``root``.

    A parent whose manifest the catalog does not know has edges but no node.
    """
    digests = sorted({*catalog.closure([root], up=True), *catalog.closure([root], up=False)})
    nodes = {digest: finder.version(finder.by_digest(digest)) for digest in digests if catalog.has(digest)}
    edges = tuple(edge for edge in catalog.edges_of(digests) if edge.parent in digests)
    live = {digest for digest in nodes if catalog.versions(digest=digest, limit=1)}
    return Lineage(root, nodes, edges, frozenset(nodes.keys() - live))
