"""Evaluation: a model's quality on held-out data, and how much two models differ."""

from ftreg.evaluation.measuring import Measurement, TokenScores, held_out_loss, measure
from ftreg.evaluation.memory import PeakMemory
from ftreg.evaluation.parity import BorderParity, Outputs, Parity, check, compute_outputs, measure_parity
from ftreg.evaluation.probe import Probe, ProbeText, make_probe

__all__ = [
    "BorderParity",
    "Measurement",
    "Outputs",
    "Parity",
    "PeakMemory",
    "Probe",
    "ProbeText",
    "TokenScores",
    "check",
    "compute_outputs",
    "held_out_loss",
    "make_probe",
    "measure",
    "measure_parity",
]
