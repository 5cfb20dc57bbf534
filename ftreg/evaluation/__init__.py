"""Evaluation: a model's quality on held-out data, and how much two models differ."""

from ftreg.evaluation.evaluate import AnsweredPrompt, Evaluation, evaluate, held_out_loss
from ftreg.evaluation.parity import BorderParity, Outputs, Parity, check, compute_outputs, measure_parity
from ftreg.evaluation.probe import Probe, ProbeText, make_probe

__all__ = [
    "AnsweredPrompt",
    "BorderParity",
    "Evaluation",
    "Outputs",
    "Parity",
    "Probe",
    "ProbeText",
    "check",
    "compute_outputs",
    "evaluate",
    "held_out_loss",
    "make_probe",
    "measure_parity",
]
