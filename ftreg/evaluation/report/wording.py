"""Numbers and sentences as both formats of a report write them."""

from __future__ import annotations

from ftreg.evaluation.report.facts import Candidate, Difference, Estimate, Report

_COMPARED = {"better": "is better than", "worse": "is worse than", "differs": "differs from"}


def number(value: float) -> str:
    """Write a figure with as many decimals as its size needs."""
    return (f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}").replace("-", "−")


def interval(one: Estimate | Difference) -> str:
    """Write an interval; empty if there is none."""
    return "" if one.low is None or one.high is None else f"[{number(one.low)}, {number(one.high)}]"


def signed(value: float) -> str:
    """Write a difference with its sign."""
    return ("+" if value > 0 else "−" if value < 0 else "±") + number(abs(value))


def p_value(value: float) -> str:
    """Write a p-value."""
    return f"p = {value:.4f}" if value >= 0.0001 else "p < 0.0001"


def size(value: float | None) -> str:
    """Write a number of bytes; empty if it is not known."""
    if value is None:
        return ""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def speed(value: float | None) -> str:
    """Write a number of tokens per second; empty if it is not known."""
    return "" if value is None else f"{value:,.0f}"


def verdict(difference: Difference) -> str:
    """Write a verdict."""
    return "no difference shown" if difference.verdict == "not shown" else difference.verdict


def shown_answers(report: Report) -> str:
    """Say which examples are shown side by side."""
    return (
        f"{len(report.disagreements)} of {report.answered:,} examples: first those that only some versions answer as "
        "expected, then those whose answers share the fewest words."
    )


def certificate(candidate: Candidate) -> str:
    """Sum up a certificate; empty if there is none."""
    if candidate.certificate_kl is None:
        return ""
    outside = "; ".join(candidate.certificate_failures or ())
    return f"KL {candidate.certificate_kl:.2g}, " + (f"accepted though {outside}" if outside else "passed")


def measured_on(report: Report) -> str:
    """Say what the versions were measured on."""
    answered = "none of them answered" if not report.answered else f"{report.answered:,} answered"
    part = report.dataset if report.split == "all" else f"the {report.split} split of {report.dataset}"
    return f"{report.examples:,} examples of {part}, {answered}"


def findings(report: Report) -> list[str]:
    """Say in a sentence for each version what was shown of it."""
    sentences = []
    for candidate in report.candidates[1:]:
        verdicts: dict[str, list[str]] = {}
        for figure in report.figures:
            if (found := figure.differences.get(candidate.ref)) is not None:
                verdicts.setdefault(found.verdict, []).append(figure.name)
        shown = [
            f"{_COMPARED[verdict]} {report.baseline} in {', '.join(names)}"
            for verdict, names in verdicts.items()
            if verdict in _COMPARED
        ]
        if shown:
            sentences.append(f"{candidate.ref} {'; it '.join(shown)}.")
        else:
            sentences.append(f"No difference between {candidate.ref} and {report.baseline} was shown.")
    return sentences


def method(report: Report) -> str:
    """Say how intervals and p-values were computed."""
    percent = f"{report.confidence:.0%}"
    return (
        f"Intervals hold {percent} of {report.resamples:,} paired bootstrap resamples of the examples. Each version is "
        f"tested against {report.baseline} with a paired randomization test over the examples (for scores of 0 and 1, "
        f"McNemar's exact test). The p-values are corrected for all {report.tests} tests together (Holm): "
        "“better”, “worse” and “differs” stand where a corrected p-value is below 0.05. “No difference shown” does not "
        "mean that there is none. Figures without an interval are not means over the examples. Loss and perplexity are "
        "comparable between versions with the same tokenizer and template only."
    )


COSTS = (
    "Size is that of the version’s own files; an adapter needs its base too. Memory is the peak of the process that "
    "evaluated the version; speed is that of its greedy answers in batches. Both depend on the machine; what is not on "
    "record is left blank."
)
