"""The registry: immutable, content-addressed versions with their lineage, evidence and history.

``Registry`` is the way in. ``home`` says where things lie; ``blobs``, ``staging`` and ``views`` handle files;
``schema``, ``catalog``, ``finder`` and ``journal`` the index and the event log; ``publish``, ``verify``, ``collect``
and ``rebuild`` do the work.
"""

from ftreg.registry.catalog import production_key
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
    Summary,
    VerifyReport,
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
    "Prepared",
    "RebuildReport",
    "Registry",
    "Staging",
    "Summary",
    "VerifyReport",
    "production_key",
]
