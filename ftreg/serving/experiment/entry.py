"""The entry of one request in an experiment's record."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

RouteKind = Literal["experiment", "pinned", "shadow"]
"""Why a version got a request: the experiment assigned it, the client named it, or it is a shadow."""

Row = tuple[Any, ...]


@dataclass(frozen=True)
class RequestEntry:
    """A request that a model has answered or failed to answer.

    Attributes:
        id: Id of the answer; unique, except that a shadow's answer has the id of the request that it repeats.
        at: Time of arrival, in Unix seconds.
        ref: The variant or shadow.
        digest: Its digest.
        route: ``experiment``, ``pinned`` (the client asked for this version) or ``shadow`` (the answer was discarded).
        epoch: Epoch of the allocation that assigned it.
        unit: The randomization unit: a user, an API key, or the request itself. It is hashed before it is stored.
        status: HTTP status of the answer.
        error: Code of the error; None for an answer.
        latency: Seconds until the answer was complete.
        first_token: Seconds until the first token; None if there was none.
        prompt_tokens: Number of tokens of the prompts.
        completion_tokens: Number of tokens generated.
        finish: Why the first completion ended (``stop``, ``length``); None if it did not.
    """

    id: str
    at: float
    ref: str
    digest: str
    route: RouteKind
    epoch: int
    unit: str
    status: int
    error: str | None
    latency: float
    first_token: float | None
    prompt_tokens: int
    completion_tokens: int
    finish: str | None

    def to_row(self, experiment: str) -> Row:
        """Return the columns of the table ``requests`` from ``id`` on; the unit is hashed so that no key is stored."""
        unit = hashlib.sha256(experiment.encode() + self.unit.encode("utf-8", "surrogatepass")).digest()[:16]
        return (
            storable(self.id),
            float(self.at),
            self.ref,
            self.digest,
            self.route,
            int(self.epoch),
            unit,
            int(self.status),
            self.error,
            float(self.latency),
            None if self.first_token is None else float(self.first_token),
            int(self.prompt_tokens),
            int(self.completion_tokens),
            self.finish,
        )


def storable(text: str) -> str:
    """Return ``text`` with lone surrogates replaced, which SQLite does not accept."""
    return text.encode("utf-8", "replace").decode()
