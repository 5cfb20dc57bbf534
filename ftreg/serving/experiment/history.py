"""The history of an experiment, read from its record, also while servers write to it."""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from ftreg.core.database import transaction
from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.core.names import check_name
from ftreg.serving.deployment import RECORD, Deployment, state_folder
from ftreg.serving.experiment.database import database_errors, open_to_read
from ftreg.serving.experiment.routing import Allocation
from ftreg.serving.experiment.store import read_allocation

# A request counts as failed if the server is to blame, not the client: 5xx, 408 (timeout), 429 (queue full).
_USAGE = """
    SELECT r.ref, r.digest, r.route, count(*), sum(r.status >= 500 OR r.status IN (408, 429)), sum(r.prompt_tokens),
        sum(r.completion_tokens), count(f.number)
    FROM requests r LEFT JOIN feedback f ON f.request = r.number AND r.route != 'shadow'
    WHERE r.experiment = ? GROUP BY r.ref, r.digest, r.route ORDER BY min(r.number)
"""
# With min(), SQLite takes the other columns from the row that has the minimum.
_UNITS = """
    SELECT ref, epoch, failed FROM (
        SELECT ref, epoch, status >= 500 OR status IN (408, 429) AS failed, min(number) AS first
        FROM requests WHERE experiment = ? AND route = 'experiment' GROUP BY unit
    ) ORDER BY first
"""
_SCORES = """
    SELECT ref, score FROM (
        SELECT r.ref, f.score, min(f.number) AS first
        FROM feedback f JOIN requests r ON r.number = f.request
        WHERE r.experiment = ? AND r.route = 'experiment' GROUP BY r.unit
    ) ORDER BY first
"""
_Group = tuple[str, ...]  # ref, digest, route
_EXPERIMENTS = """
    SELECT id, name, created, ifnull(requests, 0) FROM experiments LEFT JOIN (
        SELECT experiment, count(*) AS requests FROM requests GROUP BY experiment
    ) ON experiment = id ORDER BY opened DESC
"""
_SECONDS = "SELECT ref, digest, route, latency, first_token FROM requests WHERE experiment = ? AND status < 400"


@dataclass(frozen=True)
class VariantUsage:
    """The requests of one variant on one route.

    Attributes:
        ref: The variant or shadow.
        digest: Its digest.
        route: ``experiment``, ``pinned`` or ``shadow``.
        requests: Number of requests, answered or not.
        errors: Requests that the server failed to answer: 5xx, timeouts, a full queue.
        prompt_tokens: Tokens of the prompts.
        completion_tokens: Tokens generated.
        feedback: Requests with feedback from users.
        latency_p50: Median of the seconds to a complete answer; None without answers.
        latency_p95: 95th percentile of the same.
        first_token_p50: Median of the seconds to the first token.
    """

    ref: str
    digest: str
    route: str
    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    feedback: int
    latency_p50: float | None = None
    latency_p95: float | None = None
    first_token_p50: float | None = None


@dataclass(frozen=True)
class Unit:
    """A randomization unit (usually a user), described by its first request in the experiment.

    Attributes:
        ref: The variant that answered.
        epoch: The epoch in which the unit was assigned.
        failed: Whether the server failed to answer.
    """

    ref: str
    epoch: int
    failed: bool


@dataclass(frozen=True)
class ExperimentSummary:
    """One experiment of a record.

    Attributes:
        id: The experiment's id.
        name: Its name.
        created: When it began, in Unix seconds.
        requests: Number of its requests, on all routes.
    """

    id: str
    name: str
    created: float
    requests: int


@dataclass(frozen=True)
class History:
    """Everything that a report needs to know about an experiment.

    Attributes:
        experiment: The experiment's id.
        deployment: The deployment that served it last.
        created: When it began, in Unix seconds.
        allocations: Its allocations, oldest first, the current one last.
        changes: When each allocation began, in Unix seconds.
        usage: The requests of each variant and shadow, by route.
        units: The randomization units, in order of arrival.
        scores: ``(ref, score)``: the first feedback of each unit, in order of arrival.
        others: The record's other experiments, the one served last first.
    """

    experiment: str
    deployment: Deployment
    created: float
    allocations: tuple[Allocation, ...]
    changes: tuple[float, ...] = ()
    usage: tuple[VariantUsage, ...] = ()
    units: tuple[Unit, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()
    others: tuple[ExperimentSummary, ...] = ()


def find(name: str, experiment: str | None = None, db: Path | None = None) -> History:
    """Read an experiment of the deployment ``name``, by default the one that was served last.

    Args:
        name: The deployment.
        experiment: An experiment of the record, by its id, the id's beginning, or its name.
        db: The record, if it is not where this machine's servers keep it.

    Raises:
        InputError: There is no record, it is another deployment's, or it holds no such experiment.
    """
    folder = state_folder(check_name(name))
    path = db or folder / RECORD
    if db is None and not path.is_file():
        known = [found.parent.name for found in folder.parent.glob(f"*/{RECORD}")]
        hint = "Its server makes the record; if that is elsewhere, give its path as `db`."
        raise UnknownName("record of a deployment", name, known, where=str(path), hint=None if known else hint)
    history = read(path, experiment)
    if history.deployment.name != name:
        raise InputError(f"is the record of {history.deployment.name}, not of {name}", where=str(path))
    return history


def read(path: Path, experiment: str | None = None) -> History:
    """Read one experiment of the record at ``path``.

    Args:
        path: The record.
        experiment: Its id, the beginning of its id, or its name; by default the experiment that was served last.

    Raises:
        InputError: There is no record, no such experiment, or several that match.
        FtregError: The record is damaged, or was made by a newer ftreg.
    """
    with database_errors(path), closing(open_to_read(path)) as database, transaction(database, write=False):
        return _read(database, path, experiment)


def _read(database: sqlite3.Connection, path: Path, experiment: str | None) -> History:
    listed = [ExperimentSummary(*row) for row in database.execute(_EXPERIMENTS)]
    if not listed:
        raise InputError("the record has no experiments", where=str(path), hint="Serve the deployment first.")
    chosen = listed[0] if experiment is None else _choose(listed, experiment, path)
    identity = chosen.id
    (deployment,) = database.execute("SELECT deployment FROM experiments WHERE id = ?", (identity,)).fetchone()
    epochs = database.execute(
        "SELECT at, epoch, weights, runs FROM allocations WHERE experiment = ? ORDER BY epoch", (identity,)
    ).fetchall()
    units = database.execute(_UNITS, (identity,))
    return History(
        experiment=identity,
        deployment=_deployment(deployment, path),
        created=chosen.created,
        allocations=tuple(read_allocation(*row) for _, *row in epochs),
        changes=tuple(at for at, *_ in epochs),
        usage=tuple(_usage(database, identity)),
        units=tuple(Unit(ref, epoch, bool(failed)) for ref, epoch, failed in units),
        scores=tuple(database.execute(_SCORES, (identity,))),
        others=tuple(one for one in listed if one is not chosen),
    )


def _choose(listed: list[ExperimentSummary], wanted: str, path: Path) -> ExperimentSummary:
    """Return the experiment that ``wanted`` names; raise ``InputError`` if it names none or several."""
    found = [one for one in listed if wanted and (one.id.startswith(wanted) or one.name == wanted)]
    if not found:
        raise UnknownName(
            "experiment", wanted, [name for one in listed for name in (one.id, one.name)], where=str(path)
        )
    if len(found) > 1:
        raise InputError(
            f"{wanted!r} matches several experiments: {', '.join(one.id for one in found)}",
            where=str(path),
            hint="Give the id of one, or its beginning.",
        )
    return found[0]


def _deployment(text: str, path: Path) -> Deployment:
    try:
        return Deployment.model_validate_json(text)
    except ValueError as error:
        raise FtregError(
            f"this ftreg cannot read the experiment's deployment: {error}",
            where=str(path),
            hint="Use the ftreg that the server was deployed with.",
        ) from error


def _usage(database: sqlite3.Connection, experiment: str) -> Iterator[VariantUsage]:
    """Yield the requests of each variant on each route, in order of their first request."""
    latencies, first_tokens = defaultdict[_Group, list[float]](list), defaultdict[_Group, list[float]](list)
    for *group, latency, first_token in database.execute(_SECONDS, (experiment,)):
        latencies[tuple(group)].append(latency)
        if first_token is not None:
            first_tokens[tuple(group)].append(first_token)
    for row in database.execute(_USAGE, (experiment,)):
        group = row[:3]
        latency_p50, latency_p95 = _quantiles(latencies[group], 0.5, 0.95)
        (first_token_p50,) = _quantiles(first_tokens[group], 0.5)
        yield replace(
            VariantUsage(*row), latency_p50=latency_p50, latency_p95=latency_p95, first_token_p50=first_token_p50
        )


def _quantiles(values: list[float], *shares: float) -> list[float | None]:
    """Return quantiles by nearest rank; None for each if there are no values."""
    ordered = sorted(values)
    return [ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else None for share in shares]
