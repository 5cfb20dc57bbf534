"""``ftreg eval`` and ``ftreg compare``: what is printed, and what is taken from the evidence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftreg.cli.main import main
from ftreg.core.host import PluginHost
from ftreg.registry import Registry
from tests.pipeline import echo
from tests.pipeline.test_evaluations import publish_echo
from tests.plugins.fakes import distribution

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in a folder with rows and a registry with bot:1 and bot:2; return what it prints."""
    site = distribution(tmp_path / "site", "fake-echo", {"installed_echo": "from tests.pipeline.echo import *"})
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    with Registry(tmp_path / "home", host=PluginHost()) as registry:
        publish_echo(registry)
    rows = [{"prompt": f"Where, {n}?", "response": f"label {n % 2}", "topic": f"label {n % 2}"} for n in range(4)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def command(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(tmp_path / "home"), *arguments])
        assert (ended.value.code or 0) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return command


def test_figures_and_tables(run: Run) -> None:
    """All figures are lines, and a metric's tables follow them."""
    shown = run("eval", "bot:1", "--data", "rows.jsonl", "--metric", "classification", "--answers", "1").splitlines()
    first_words = [line.split()[0] for line in shown if line.strip()]
    assert first_words[:7] == ["all", "bot:1", "kind", "size", "loss", "perplexity", "token_accuracy"]
    assert {"exact_match", "token_f1", "length.cut", "classification.macro_f1"} <= set(first_words)
    assert "length: tokens" in shown
    assert "classification: confusion matrix" in shown
    matrix = shown[shown.index("classification: confusion matrix") + 1 :][:3]
    assert [line.split() for line in matrix[1:]] == [["label", "0", "0", "0", "2"], ["label", "1", "0", "0", "2"]]
    assert any(line.split() == ["expected", "label", "0"] for line in shown)


def test_json(run: Run) -> None:
    """Figures, tables, settings and the file of the answers are in the JSON, and a few answers side by side."""
    Path("schema.json").write_text('{"type": "object"}')
    options = ("--data", "rows.jsonl", "--metric", "json", "--set", "json.schema=schema.json", "--answers", "2")
    facts = json.loads(run("compare", "bot:1", "bot:2", *options, "--json"))
    assert facts["results"].keys() == {"bot:1", "bot:2"}
    result = facts["results"]["bot:2"]
    assert result["figures"]["json.schema_match"] == 0.0
    assert result["metrics"]["json"]["settings"] == {"schema": {"type": "object"}}
    assert result["metrics"]["length"]["tables"][0]["columns"][1] == "mean"
    assert len(Path(result["answers"]["file"]).read_text().splitlines()) == result["answers"]["count"] == 4
    assert [len(example["answers"]) for example in facts["answers"]] == [2, 2]


def test_a_report_says_what_json_says(run: Run) -> None:
    """The report is one file, and its facts are in the JSON, computed from the scores on record."""
    options = ("--data", "rows.jsonl", "--metric", "classification")
    facts = json.loads(run("compare", "bot:1", "bot:2", *options, "--report", "out.html", "--answers", "2", "--json"))
    report = facts["report"]
    assert [one["version"] for one in report["candidates"]] == ["bot:1", "bot:2"]
    assert report["candidates"][0]["peak_rss_bytes"] > 0
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert set(figures["loss"]["differences"]) == set(figures["classification.accuracy"]["differences"]) == {"bot:2"}
    assert figures["loss"]["differences"]["bot:2"]["verdict"] == "not shown"
    assert figures["classification.macro_f1"]["differences"] == {}
    low, value, high = (figures["perplexity"]["estimates"]["bot:1"][name] for name in ("low", "value", "high"))
    assert low <= value <= high
    assert len(report["disagreements"]) == 2
    page = Path("out.html").read_text()
    assert "No difference between bot:2 and bot:1 was shown." in page
    assert echo.CALLS["engine"] == 2
    run("compare", "bot:1", "bot:2", *options, "--report", "out.md")
    assert "| bot:1 | echo |" in Path("out.md").read_text()
    assert echo.CALLS["engine"] == 2


def test_a_report_that_cannot_be_written(run: Run) -> None:
    """It is refused before any model is run."""
    said = run("compare", "bot:1", "--data", "rows.jsonl", "--report", "out.pdf", code=2)
    assert "--report: out.pdf is neither an HTML nor a Markdown file" in said
    assert echo.CALLS == {}


def test_again(run: Run) -> None:
    """The second time nothing is computed, unless --again says so."""
    for options in ((), (), ("--again",)):
        run("eval", "bot:1", "--data", "rows.jsonl", "--metric", "letters", *options)
    assert echo.CALLS == {"engine": 2, "metric": 2}


@pytest.mark.parametrize("command", [("eval", "bot:1"), ("compare", "bot:1", "bot:2")], ids=["eval", "compare"])
def test_figures_on_record_are_the_same_json(run: Run, command: tuple[str, ...]) -> None:
    """JSON from the evidence equals the JSON of the evaluation that made it."""
    first = run(*command, "--data", "rows.jsonl", "--json")
    assert run(*command, "--data", "rows.jsonl", "--json") == first
    assert echo.CALLS["engine"] == len(command) - 1


def test_a_setting_of_a_metric_that_is_not_computed(run: Run) -> None:
    """The error names the option that is missing."""
    said = run("eval", "bot:1", "--data", "rows.jsonl", "--set", "letters.letter=x", code=2)
    assert "--set: there are settings for letters, which is not computed" in said
    assert "Name letters with --metric." in said
    assert echo.CALLS == {}
