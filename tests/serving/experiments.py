"""Shared by the tests of experiments: a deployment of two versions, and requests to it."""

from __future__ import annotations

import itertools
from typing import Any

from ftreg.serving.deployment import Deployment, Variant
from ftreg.serving.experiment.entry import RequestEntry
from ftreg.serving.experiment.routing import Allocation, bucket

_ids = itertools.count(1)

CONTROL = "bot:1"
CHALLENGER = "bot:2"


def variant(ref: str, weight: float = 1.0, digest: str | None = None) -> Variant:
    """A variant that nothing loads."""
    return Variant(ref=ref, digest=digest or f"b3:{ref}", weight=weight, engine="none", serve="none:none")


def deployment(*variants: Variant, **more: Any) -> Deployment:
    """The deployment ``support`` of ``bot:1`` and ``bot:2``, or of other variants."""
    found = variants or (variant(CONTROL, 80), variant(CHALLENGER, 20))
    return Deployment(**({"name": "support", "experiment": "answers", "salt": "pepper", "variants": found} | more))


def request(allocation: Allocation, key: str | None = None, **more: Any) -> RequestEntry:
    """Make a request with that key, or without one, answered by its variant; ``more`` replaces fields."""
    identity = f"request-{next(_ids)}"
    unit = key or identity
    ref = more.get("ref") or allocation.ref(bucket("pepper", "answers", unit))
    fields = {
        "id": identity, "at": 1e9, "ref": ref, "digest": f"b3:{ref}", "route": "experiment", "epoch": allocation.epoch,
        "unit": unit, "status": 200, "error": None, "latency": 0.5, "first_token": 0.1, "prompt_tokens": 10,
        "completion_tokens": 20, "finish": "stop",
    }  # fmt: skip
    return RequestEntry(**(fields | more))
