"""Experiments: follows the A/B experiment of a deployment, changes its weights, and promotes or rolls back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftreg.api.opening import opened
from ftreg.core.errors import FtregError
from ftreg.core.types import Progress
from ftreg.registry import Registry

if TYPE_CHECKING:
    from ftreg.serving.deployment import Deployment
    from ftreg.serving.experiment.decision import Decision
    from ftreg.serving.experiment.report import Report
    from ftreg.serving.experiment.status import Status

SERVER = "http://127.0.0.1:3000"


def status(name: str, *, experiment: str | None = None, db: Path | None = None) -> Status:
    """Return the weights, the split and the requests of the experiment of the deployment ``name``.

    Args:
        name: The deployment.
        experiment: An experiment of the record, by its id, the id's beginning, or its name; by default the last served.
        db: The record, if it is not where this machine's servers keep it.

    Raises:
        InputError: There is no such record or experiment.
    """
    from ftreg.serving.experiment.history import find
    from ftreg.serving.experiment.status import status_of

    return status_of(find(name, experiment, db))


def report(name: str, *, experiment: str | None = None, db: Path | None = None) -> Report:
    """Return the figures of the variants, what may be concluded from them, and a verdict; arguments as for ``status``.

    It may be read at any time and as often as you like: the confidence intervals stay valid.
    """
    from ftreg.serving.experiment.history import find
    from ftreg.serving.experiment.report import make_report

    return make_report(find(name, experiment, db))


def set_weights(
    name: str, weights: Mapping[str, float], *, url: str = SERVER, token: str | None = None
) -> dict[str, Any]:
    """Change the weights of variants on the running server at ``url``; return the experiment as it is then.

    Variants that are not named keep their weight. As few users as possible move to another variant, and no request
    fails.

    Args:
        name: The deployment.
        weights: New weights by reference.
        url: Where the server answers.
        token: The server's admin token; by default the one that this machine's servers have stored.

    Raises:
        InputError: The address, the token or the weights cannot be used.
        FtregError: No server answers, or it fails.
    """
    from ftreg.serving.experiment.client import put_weights, stored_token

    return put_weights(url, token or stored_token(name), name, weights)


def promote(
    name: str,
    ref: str | None = None,
    *,
    force: bool = False,
    experiment: str | None = None,
    db: Path | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Decision:
    """Point the deployment's alias at the challenger that won, and store the report as evidence on it and the control.

    Args:
        name: The deployment.
        ref: The challenger; by default the one that the verdict names.
        force: Promote even if the verdict disagrees; the evidence is marked as forced.
        experiment: As for ``status``.
        db: As for ``status``.
        registry: Where the versions and the alias are; by default the default registry.
        progress: Where to report progress.

    Raises:
        InputError: There is no such experiment or challenger, or a version is not in the registry.
        FtregError: The verdict does not say so, or a gate refuses; the alias has not moved.
    """
    from ftreg.serving.experiment import decision
    from ftreg.serving.experiment.history import find

    with opened(registry, progress) as context:
        return decision.promote(context.registry, find(name, experiment, db), ref, force=force)


def rollback(
    name: str,
    *,
    experiment: str | None = None,
    db: Path | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Decision:
    """Point the deployment's alias at the control again, and store the report as evidence on all variants.

    Arguments and errors are as for ``promote``.
    """
    from ftreg.serving.experiment import decision
    from ftreg.serving.experiment.history import find

    with opened(registry, progress) as context:
        return decision.roll_back(context.registry, find(name, experiment, db))


def weights_in_force(deployment: Deployment) -> Mapping[str, float] | None:
    """Return the shares by reference that servers on this machine would deal by, if they differ from the deployment's.

    An experiment with the same versions that was served here before continues with its recorded weights.
    """
    from ftreg.serving.deployment import RECORD, state_folder
    from ftreg.serving.experiment.history import read
    from ftreg.serving.experiment.routing import Allocation

    try:
        allocation = read(state_folder(deployment.name) / RECORD, deployment.id).allocations[-1]
    except FtregError:
        return None
    return None if allocation.shares == Allocation.of(deployment.weights).shares else allocation.shares
