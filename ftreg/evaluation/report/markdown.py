"""A report as a Markdown file: everything but the plots."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ftreg.evaluation.disagreement import Disagreement
from ftreg.evaluation.report import wording
from ftreg.evaluation.report.facts import Figure, Report


def as_markdown(report: Report) -> str:
    """Return the report as Markdown; prompts and answers stand in code blocks, so that nothing in them is markup."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    refs = [candidate.ref for candidate in report.candidates]
    yield f"# {_plain(' · '.join(refs))}"
    yield f"\n{_plain(wording.measured_on(report))}"
    if len(refs) > 1:
        yield "\n## Findings\n"
        yield from (f"- {_plain(sentence)}" for sentence in wording.findings(report))
    yield "\n## Figures\n"
    yield from _table(["figure", *refs], [[figure.name, *_estimates(figure, refs)] for figure in report.figures])
    yield f"\n{_plain(wording.method(report))}"
    for ref, name, reason in report.failed_metrics:
        yield f"\n- {_plain(f'{ref}: {name} could not be computed: {reason}')}"
    yield "\n## Versions and costs\n"
    yield from _candidates(report)
    yield f"\n{wording.COSTS}"
    if report.disagreements:
        yield f"\n## Answers side by side\n\n{wording.shown_answers(report)}"
        for one in report.disagreements:
            yield from _example(one, refs)
    yield "\n## Lineage\n"
    rows = [
        [one.ref, one.kind, one.made_by, ", ".join(f"{role} {ref}" for role, ref in one.parents)]
        for one in report.lineage
    ]
    yield from _table(["version", "kind", "made by", "made from"], rows)


def _estimates(figure: Figure, refs: Sequence[str]) -> Iterator[str]:
    """Yield the cell of each version: the figure, its interval, and how it differs from the baseline's."""
    for ref in refs:
        one, difference = figure.estimates.get(ref), figure.differences.get(ref)
        cell = "" if one is None else f"{wording.number(one.value)} {wording.interval(one)}".strip()
        if difference is not None:
            change = f"{wording.signed(difference.value)}, {wording.p_value(difference.p_corrected)}"
            cell += f"; {change}: {wording.verdict(difference)}"
        yield cell


def _candidates(report: Report) -> Iterator[str]:
    rows = [
        [
            one.ref,
            one.kind,
            one.made_by,
            wording.size(one.size),
            wording.size(one.peak_rss_bytes),
            wording.speed(one.answer_tokens_per_second),
            wording.certificate(one),
            one.digest[:15],
        ]
        for one in report.candidates
    ]
    columns = ["version", "kind", "made by", "size", "peak memory", "tokens/s", "certificate", "digest"]
    yield from _table(columns, rows)


def _example(one: Disagreement, refs: Sequence[str]) -> Iterator[str]:
    yield f"\n### Example {one.position + 1} (disagreement {one.score:.2f})"
    first = one.answers[0]
    yield from _block("prompt", first.prompt)
    yield from _block("expected", first.reference)
    for ref, answer in zip(refs, one.answers, strict=True):
        yield from _block(f"{ref}: {'as expected' if answer.as_expected else 'differs'}", answer.answer)


def _block(title: str, text: str) -> Iterator[str]:
    """Yield a text in a code block whose fence is longer than any row of backticks in it."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"\n{_plain(title)}\n\n{fence}text\n{text}\n{fence}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in [columns, ["---"] * len(columns), *rows]:
        cells = row if row[0] == "---" else [_plain(cell) for cell in row]
        yield f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Return a text in one line, in which no character is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&!$])", r"\\\1", " ".join(text.split()))
