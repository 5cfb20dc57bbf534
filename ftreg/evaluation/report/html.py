"""A report as one HTML file that loads nothing, runs nothing, and shows prompts and answers as text only."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from ftreg.core.types import AnsweredPrompt
from ftreg.evaluation.disagreement import Disagreement
from ftreg.evaluation.report import wording
from ftreg.evaluation.report.facts import Difference, Figure, Report
from ftreg.evaluation.report.markup import Markup, empty_tag, join, tag
from ftreg.evaluation.report.plots import Plot


def as_html(report: Report, plots: Sequence[Plot]) -> str:
    """Return the page; its policy (Content Security Policy) forbids scripts, requests, and styles but its own."""
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = " · ".join(candidate.ref for candidate in report.candidates)
    head = tag(
        "head",
        empty_tag("meta", charset="utf-8"),
        empty_tag("meta", http_equiv="Content-Security-Policy", content=policy),
        empty_tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        empty_tag("meta", name="color-scheme", content="light dark"),
        empty_tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("p", wording.measured_on(report), class_="quiet")),
        tag("main", *(section for section in _sections(report, plots) if section)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _sections(report: Report, plots: Sequence[Plot]) -> list[Markup | None]:
    return [
        _section("Findings", tag("ul", *(tag("li", one) for one in wording.findings(report))))
        if len(report.candidates) > 1
        else None,
        _section("Figures", _figures(report), tag("p", wording.method(report), class_="quiet"), _failed(report)),
        _section("Plots", tag("div", *map(_picture, plots), class_="plots")) if plots else None,
        _section("Versions and costs", _candidates(report), tag("p", wording.COSTS, class_="quiet")),
        _answers(report),
        _section("Lineage", _lineage(report)),
    ]


def _section(title: str, *content: str | None) -> Markup:
    return tag("section", tag("h2", title), *content)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Return a table whose cells carry their column's title, which a narrow screen shows beside them."""
    head = tag("thead", tag("tr", *(tag("th", column, scope="col") for column in columns)))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(
                tag("td", cell, data_label=column, class_=None if cell else "blank")
                for column, cell in zip(columns[1:], row[1:], strict=True)
            ),
        )
        for row in rows
    ]
    return tag("div", tag("table", head, tag("tbody", *body)), class_="scroll")


def _figures(report: Report) -> Markup:
    refs = [candidate.ref for candidate in report.candidates]
    rows = [[_figure_name(figure), *(_estimate(figure, ref) for ref in refs)] for figure in report.figures]
    return _table(["figure", *refs], rows)


def _figure_name(figure: Figure) -> Markup:
    direction = {True: "higher is better", False: "lower is better", None: None}[figure.higher_is_better]
    return join(figure.name, tag("span", direction, class_="note") if direction else None)


def _estimate(figure: Figure, ref: str) -> Markup:
    """Return a figure of a version with its interval, and how it differs from the baseline's."""
    one = figure.estimates.get(ref)
    if one is None:
        return Markup()
    difference = figure.differences.get(ref)
    return join(
        tag("span", tag("b", wording.number(one.value)), " ", tag("span", wording.interval(one), class_="range")),
        _difference(difference) if difference else None,
    )


def _difference(difference: Difference) -> Markup:
    change = f"{wording.signed(difference.value)} {wording.interval(difference)}"
    verdict = tag("em", wording.verdict(difference), class_=f"verdict {difference.verdict}")
    p_value = tag("span", wording.p_value(difference.p_corrected), class_="range")
    return tag("span", f"{change}, ", p_value, " ", verdict, class_="note")


def _failed(report: Report) -> Markup | None:
    if not report.failed_metrics:
        return None
    items = [tag("li", f"{ref}: {name} could not be computed: {why}") for ref, name, why in report.failed_metrics]
    return tag("ul", *items)


def _picture(plot: Plot) -> Markup:
    dark = empty_tag("source", srcset=_data_uri(plot.dark), media="(prefers-color-scheme: dark)")
    image = empty_tag("img", src=_data_uri(plot.light), alt=f"{plot.title} by version; the tables have the numbers")
    return tag("picture", dark, image)


def _data_uri(image: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(image).decode()}"


def _candidates(report: Report) -> Markup:
    columns = [
        "version",
        "identity",
        "kind",
        "made by",
        "size",
        "peak memory",
        "tokens/s",
        "certificate",
        "evaluated",
    ]
    rows = [
        [
            one.ref,
            " ".join([one.version, *(f"@{alias}" for alias in one.aliases), one.digest[:15]]),
            one.kind,
            one.made_by,
            wording.size(one.size),
            wording.size(one.peak_rss_bytes),
            wording.speed(one.answer_tokens_per_second),
            wording.certificate(one),
            one.evaluated[:16].replace("T", " "),
        ]
        for one in report.candidates
    ]
    return _table(columns, rows)


def _answers(report: Report) -> Markup | None:
    if not report.disagreements:
        return None
    refs = [candidate.ref for candidate in report.candidates]
    articles = [_example(one, refs) for one in report.disagreements]
    return _section("Answers side by side", tag("p", wording.shown_answers(report), class_="quiet"), *articles)


def _example(one: Disagreement, refs: Sequence[str]) -> Markup:
    first = one.answers[0]
    return tag(
        "article",
        tag("h3", f"Example {one.position + 1}", tag("span", f"disagreement {one.score:.2f}", class_="note")),
        tag(
            "div",
            _text("prompt", first.prompt),
            _text("expected", first.reference),
            class_="pair",
        ),
        tag("div", *(_answer(ref, answer) for ref, answer in zip(refs, one.answers, strict=True)), class_="pair"),
    )


def _answer(ref: str, answer: AnsweredPrompt) -> Markup:
    verdict, colour = ("as expected", "better") if answer.as_expected else ("differs", "worse")
    return _text(ref, answer.answer, tag("em", verdict, class_=f"verdict {colour}"))


def _text(title: str, text: str, *notes: str) -> Markup:
    shown = tag("pre", text, dir="auto") if text.strip() else tag("p", "(empty)", class_="quiet")
    return tag("div", tag("h4", title, " ", *notes), shown)


def _lineage(report: Report) -> Markup:
    rows = [
        [one.ref, one.kind, one.made_by, ", ".join(f"{role} {ref}" for role, ref in one.parents)]
        for one in report.lineage
    ]
    return _table(["version", "kind", "made by", "made from"], rows)
