"""The registry: immutable, content-addressed versions with their lineage, evidence and history.

``Registry`` is the public interface. ``home`` knows the layout of the folder; ``blobs``, ``staging`` and ``views``
handle files, ``runs`` the checkpoints of trainings; ``schema``, ``catalog``, ``finder`` and ``journal`` are the index
and the event log; ``evidence``, ``gates`` and ``lineage`` build on these; ``publish``, ``verify``, ``collect``,
``eviction``, ``rebuild`` and ``usage`` are the operations.
docs/registry.md describes the format on disk.
"""

from ftreg.registry.catalog import cache_key
from ftreg.registry.policies import Policy, goldens_of
from ftreg.registry.publish import Prepared
from ftreg.registry.records import (
    Damage,
    Draft,
    Edge,
    Event,
    EvidenceRecord,
    Gate,
    GcReport,
    Lineage,
    RebuildReport,
    RunFolder,
    Summary,
    Usage,
    VerifyReport,
    VersionUsage,
)
from ftreg.registry.registry import Registry
from ftreg.registry.staging import Staging

__all__ = [
    "Damage",
    "Draft",
    "Edge",
    "Event",
    "EvidenceRecord",
    "Gate",
    "GcReport",
    "Lineage",
    "Policy",
    "Prepared",
    "RebuildReport",
    "Registry",
    "RunFolder",
    "Staging",
    "Summary",
    "Usage",
    "VerifyReport",
    "VersionUsage",
    "cache_key",
    "goldens_of",
]
