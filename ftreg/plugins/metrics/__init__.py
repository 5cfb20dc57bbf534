"""Built-in metrics over generated answers."""

from __future__ import annotations

from ftreg.plugin import MetricSpec, hookimpl


@hookimpl
def ftreg_metrics() -> list[MetricSpec]:
    """The built-in metrics."""
    return [
        MetricSpec(
            name="exact_match",
            summary="Share of answers equal to the reference, but for white space",
            impl="ftreg.plugins.metrics.text:exact_match",
        ),
        MetricSpec(
            name="token_f1",
            summary="Mean F1 of the words shared with the reference (SQuAD)",
            impl="ftreg.plugins.metrics.text:token_f1",
        ),
    ]
