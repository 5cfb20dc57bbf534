"""Reports: nothing in them runs or is fetched, whatever the answers say, and both formats say everything."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ftreg.core.errors import InputError
from ftreg.core.types import AnsweredPrompt, NullProgress
from ftreg.evaluation.disagreement import Disagreement, largest_disagreements
from ftreg.evaluation.report import (
    Ancestor,
    Candidate,
    Difference,
    Estimate,
    Figure,
    Report,
    Training,
    check_report_path,
    write_report,
)
from ftreg.evaluation.report.html import as_html
from ftreg.evaluation.report.markdown import as_markdown
from ftreg.evaluation.report.plots import draw_plots

EVIL = (
    "</pre></style><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>\"' onload='x' `$&|[x](y)"
)


def report(text: str = "plain") -> Report:
    """A report on two versions in which every text that others may choose is ``text``."""
    training = Training(text, [(1, 3.0), (2, 2.0)], [(2, 2.5)])
    costs = {"size": 2_500_000, "peak_rss_bytes": 1e9, "answer_tokens_per_second": None}
    candidates = [
        Candidate(
            ref=ref, version=f"{ref}:1", digest="b3:12", kind=text, made_by=text, aliases=[text], **costs,
            evaluated="2026-01-01T00:00:00", certificate_kl=kl, certificate_failures=[text], training=curves,
        )
        for ref, kl, curves in (("one", None, None), ("two", 0.01, training))
    ]  # fmt: skip
    estimates = {"one": Estimate(1.0, 0.9, 1.1), "two": Estimate(0.5)}
    answer = AnsweredPrompt(text, text, text)
    return Report(
        dataset=text,
        digest="b3:34",
        split="test",
        examples=2,
        baseline="one",
        confidence=0.95,
        resamples=2000,
        tests=1,
        candidates=candidates,
        figures=[
            Figure("loss", False, estimates, {"two": Difference(-0.5, -0.6, -0.4, 0.001, 0.002, "better")}),
            Figure(text, None, {"one": Estimate(3.0)}, {}),
        ],
        failed_metrics=[("two", text, text)],
        disagreements=[Disagreement(4, 0.75, (answer, answer))],
        answered=2,
        lineage=[Ancestor(text, text, text, [(text, text)])],
    )


class Page(HTMLParser):
    """What a browser finds in a page: its elements with attributes, its texts, and its style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_text_stays_text() -> None:
    """A text that tries to be markup, anywhere, leaves the page with the elements it has otherwise, and is shown."""
    evil, plain = (report(text) for text in (EVIL, "plain"))
    pages = [Page(as_html(one, draw_plots(one))) for one in (evil, plain)]
    assert [tag for tag, _ in pages[0].elements] == [tag for tag, _ in pages[1].elements]
    assert [sorted(attributes) for _, attributes in pages[0].elements] == [
        sorted(attributes) for _, attributes in pages[1].elements
    ]
    assert pages[0].texts.count(EVIL) >= 4


def test_nothing_runs_and_nothing_is_fetched() -> None:
    """There is no script, no handler and no address but data; the policy forbids them too, and allows the one style."""
    one = report(EVIL)
    text = as_html(one, draw_plots(one))
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "a", "base", "form"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "style")]
        for name in ("src", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    (policy,) = [found["content"] for _, found in page.elements if found.get("http-equiv") == "Content-Security-Policy"]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'", "img-src data:", f"style-src 'sha256-{digest}'", "base-uri 'none'", "form-action 'none'",
    ]  # fmt: skip
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_markdown_shows_markup_as_text() -> None:
    """Answers stand in blocks that their own backticks cannot end; everything else is escaped."""
    text = as_markdown(report("```\n# not a title ````` <b>"))
    blocks = re.findall(r"^`{6}text\n(.*?)\n`{6}$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    outside = re.sub(r"^`{6}text\n.*?\n`{6}$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"(?<!\\)[<`]", outside)
    assert "# not a title" not in outside.replace("\\# not", "")


def test_both_formats_say_the_same() -> None:
    """Figures, intervals, corrected p-values, costs, certificates and lineage are in both."""
    for text in (as_html(report(), []), as_markdown(report()).replace("\\", "")):
        for fact in ("1.0000", "[0.9000, 1.1000]", "−0.5000", "p = 0.0020", "better", "2.5 MB", "1.0 GB", "KL 0.01"):
            assert fact in text
        assert "two is better than one in loss." in text
        assert "Example 5" in text


def test_what_is_not_on_record_is_blank() -> None:
    """A cost that was not measured has an empty cell."""
    page = as_html(report(), [])
    assert '<td data-label="tokens/s" class="blank"></td>' in page


def test_plots_have_two_themes_and_no_address() -> None:
    """Each plot is drawn for light and dark, is the same each time, and refers to nothing outside of itself."""
    plots = draw_plots(report(EVIL))
    assert [plot.title for plot in plots] == ["loss", EVIL, "training loss (nats per token)"]
    assert plots == draw_plots(report(EVIL))
    for plot in plots:
        assert plot.light != plot.dark
        assert not re.search(rb'href="(?!#)', plot.light)
        assert b"<script" not in plot.light


@pytest.mark.parametrize(("name", "said"), [("report.pdf", "neither an HTML"), ("no/report.html", "cannot be written")])
def test_where_a_report_cannot_be_written(name: str, said: str, tmp_path: Path) -> None:
    """Another ending and a folder that does not exist are errors before any work."""
    with pytest.raises(InputError, match=said):
        check_report_path(tmp_path / name)


def test_half_a_surrogate_pair_is_written(tmp_path: Path) -> None:
    """A text that is not Unicode does not stop the report."""
    write_report(report("\ud800"), tmp_path / "report.md", NullProgress())
    assert "?" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_largest_disagreements() -> None:
    """Examples on which only some are right come first, then those whose words differ most, then by position."""

    def row(*answers: str) -> tuple[AnsweredPrompt, ...]:
        return tuple(AnsweredPrompt("q", "yes", answer) for answer in answers)

    rows = [row("a b", "a b"), row("a b", "a c"), row("yes", "yes no"), row("x", "y"), row("", "")]
    found = largest_disagreements(rows, 3)
    assert [one.position for one in found] == [2, 3, 1]
    assert [round(one.score, 3) for one in found] == [round(1 / 3, 3), 1.0, 0.5]
    assert len(largest_disagreements(rows, 10)) == 5
