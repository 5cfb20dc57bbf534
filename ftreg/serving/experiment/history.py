"""Reading an experiment's record, also while servers write into it."""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.core.names import check_name
from ftreg.serving.deployment import RECORD, Deployment, state_folder
from ftreg.serving.experiment.database import connect, faults, transaction
from ftreg.serving.experiment.ledger import read_allocation
from ftreg.serving.experiment.routing import Allocation

# A request has failed where the server, and not the client, is to blame: 5xx, 408 (timeout), 429 (its queue is full).
_USAGE = """
    SELECT r.ref, r.digest, r.route, count(*), sum(r.status >= 500 OR r.status IN (408, 429)), sum(r.prompt_tokens),
        sum(r.completion_tokens), count(f.number)
    FROM requests r LEFT JOIN feedback f ON f.request = r.number AND r.route != 'shadow'
    WHERE r.experiment = ? GROUP BY r.ref, r.digest, r.route ORDER BY min(r.number)
"""
# SQLite takes the other columns from the row that has the minimum.
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
class Usage:
    """What a variant has done on one route.

    Attributes:
        ref: The variant or shadow.
        digest: Its identity.
        route: ``experiment``, ``pinned`` or ``shadow``.
        requests: Requests, whatever became of them.
        errors: Those that the server failed to answer: 5xx, timeouts, a full queue.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        feedback: Requests that users have rated.
        latency_p50: Median seconds to a complete answer; None without answers.
        latency_p95: The seconds within which 95 % of answers were complete.
        first_token_p50: Median seconds to the first token.
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
    """A unit, by the first of its requests in the experiment: who answered, dealt in which epoch, and did it fail."""

    ref: str
    epoch: int
    failed: bool


@dataclass(frozen=True)
class Listed:
    """An experiment of a record, by its id and name: when it began, in Unix seconds, and its requests on all routes."""

    id: str
    name: str
    created: float
    requests: int


@dataclass(frozen=True)
class History:
    """All that a report needs of an experiment.

    Attributes:
        experiment: The experiment's id.
        deployment: The newest deployment that it was served by.
        created: When it began, in Unix seconds.
        allocations: Its allocations, oldest first, the current one last.
        changes: When each of them began, in Unix seconds.
        usage: What each variant and shadow has done, by route.
        units: The randomized units, in the order in which they came.
        scores: ``(ref, score)``: a unit's first feedback each, in the order in which it came.
        others: The record's other experiments, the one that was served last first.
    """

    experiment: str
    deployment: Deployment
    created: float
    allocations: tuple[Allocation, ...]
    changes: tuple[float, ...] = ()
    usage: tuple[Usage, ...] = ()
    units: tuple[Unit, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()
    others: tuple[Listed, ...] = ()


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
        raise UnknownName("deployment with a record", name, known, where=str(path), hint=None if known else hint)
    history = read(path, experiment)
    if history.deployment.name != name:
        raise InputError(f"is the record of {history.deployment.name}, not of {name}", where=str(path))
    return history


def read(path: Path, experiment: str | None = None) -> History:
    """Read one experiment of the record at ``path``: by its id, the id's beginning or its name, else the last served.

    Raises:
        InputError: There is no record, or it holds no such experiment, or several.
        FtregError: The record is damaged, or was made by a newer ftreg.
    """
    with faults(path):
        database = connect(path, create=False)
        try:
            with transaction(database, write=False):
                return _read(database, path, experiment)
        finally:
            database.close()


def _read(database: sqlite3.Connection, path: Path, experiment: str | None) -> History:
    listed = [Listed(*row) for row in database.execute(_EXPERIMENTS)]
    if not listed:
        raise InputError("the record holds no experiment", where=str(path), hint="Serve the deployment first.")
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


def _choose(listed: list[Listed], wanted: str, path: Path) -> Listed:
    """The experiment that ``wanted`` means; raise where that is none, or several."""
    found = [one for one in listed if wanted and (one.id.startswith(wanted) or one.name == wanted)]
    if not found:
        raise UnknownName(
            "experiment", wanted, [name for one in listed for name in (one.id, one.name)], where=str(path)
        )
    if len(found) > 1:
        raise InputError(
            f"{wanted!r} means several experiments: {', '.join(one.id for one in found)}",
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


def _usage(database: sqlite3.Connection, experiment: str) -> Iterator[Usage]:
    """What each variant has done on each route, in the order of their first requests."""
    latencies, first_tokens = defaultdict[_Group, list[float]](list), defaultdict[_Group, list[float]](list)
    for *group, latency, first_token in database.execute(_SECONDS, (experiment,)):
        latencies[tuple(group)].append(latency)
        if first_token is not None:
            first_tokens[tuple(group)].append(first_token)
    for row in database.execute(_USAGE, (experiment,)):
        group = row[:3]
        latency_p50, latency_p95 = _quantiles(latencies[group], 0.5, 0.95)
        (first_token_p50,) = _quantiles(first_tokens[group], 0.5)
        yield replace(Usage(*row), latency_p50=latency_p50, latency_p95=latency_p95, first_token_p50=first_token_p50)


def _quantiles(values: list[float], *shares: float) -> list[float | None]:
    """Quantiles by nearest rank; None where there are no values."""
    ordered = sorted(values)
    return [ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else None for share in shares]
