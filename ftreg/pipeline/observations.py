"""Observations: what an evaluation recorded of each example, for statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftreg.data import read_scores
from ftreg.pipeline.evaluations import Evaluation

if TYPE_CHECKING:
    from ftreg.evaluation.significance import Observations

LOSS, TOKEN_ACCURACY = "loss", "token_accuracy"


def observe(result: Evaluation) -> dict[str, Observations]:
    """Return the observations of each figure whose score of each example is known, by the figure's name.

    That of a metric with several figures is called ``metric.figure``. Figures of the examples as a whole, such as BLEU,
    are not among them.
    """
    import numpy as np

    from ftreg.evaluation.significance import Observations

    tokens = {name: np.asarray(column) for name, column in result.answers.token_scores().items()}
    found = {
        LOSS: Observations(tokens["loss"], tokens["tokens"]),
        TOKEN_ACCURACY: Observations(tokens["correct"], tokens["tokens"]),
    }
    for metric, scores in result.metrics.items():
        for name, column in (read_scores(scores.examples) if scores.examples else {}).items():
            found[name if name == metric else f"{metric}.{name}"] = Observations.of_scores(column)
    return found
