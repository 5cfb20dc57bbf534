"""Golden prompts: what is expected of answers, what is recorded, and what the command line does with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftreg.api.goldens import check_goldens, set_goldens
from ftreg.cli.main import main
from ftreg.core.errors import InputError, UnknownName
from ftreg.core.host import PluginHost
from ftreg.pipeline.goldens import Golden, problems_of
from ftreg.registry import Registry
from tests.pipeline import echo
from tests.pipeline.test_evaluations import publish_echo
from tests.plugins.fakes import distribution

GOLDENS = """
- name: reset
  prompt: "How do I reset it?"
  contains: reset
  max_words: 20
- prompt: "Give me JSON."
  json: true
- messages: [{role: system, content: Be brief.}, {role: user, content: Where is it}]
  matches: "(?i)WHERE"
  max_new_tokens: 3
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Open a registry with bot:1 and bot:2, whose engine answers with the prompt, in a folder with golden prompts."""
    site = distribution(tmp_path / "site", "fake-echo", {"installed_echo": "from tests.pipeline.echo import *"})
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    Path("goldens.yaml").write_text(GOLDENS)
    with Registry(tmp_path / "home", host=PluginHost()) as found:
        publish_echo(found)
        yield found


def test_they_are_a_version_of_their_own(registry: Registry) -> None:
    """The same prompts are the same version, others the next one, and the model's versions stay as they are."""
    first = set_goldens("bot", "goldens.yaml", registry=registry)
    assert (first.ref, first.kind, first.manifest.facts) == ("bot-golden:1", "golden", {"prompts": 3})
    assert set_goldens("bot", "goldens.yaml", registry=registry).digest == first.digest
    Path("goldens.jsonl").write_text('{"prompt": "x", "contains": ["x"]}\n')
    assert set_goldens("bot", "goldens.jsonl", registry=registry).ref == "bot-golden:2"
    with pytest.raises(UnknownName):
        set_goldens("nobody", "goldens.yaml", registry=registry)


def test_a_run_is_evidence(registry: Registry) -> None:
    """It is kept with the digest of the prompts, and taken from there until the prompts or the version are others."""
    with pytest.raises(InputError, match="bot has no golden prompts"):
        check_goldens("bot:1", registry=registry)
    goldens = set_goldens("bot", "goldens.yaml", registry=registry)
    run = check_goldens("bot:1", registry=registry)
    assert [(one.name, list(one.problems)) for one in run.results] == [
        ("reset", []), ("2", ["it is not JSON"]), ("3", []),
    ]  # fmt: skip
    (record,) = [record for record in registry.evidence("bot:1") if record.type == "golden"]
    assert (record.body["goldens"], record.body["passed"], record.body["failed"]) == (goldens.digest, 2, 1)
    assert check_goldens("bot:1", registry=registry) == run
    assert echo.CALLS["engine"] == 1
    check_goldens("bot:1", again=True, registry=registry)
    check_goldens("bot:2", registry=registry)
    assert echo.CALLS["engine"] == 3


@pytest.mark.parametrize(
    ("expected", "good", "bad", "said"),
    [
        ({"equals": "yes"}, " yes\n", "Yes", "it is not 'yes'"),
        ({"contains": ["a", "b"]}, "b a", "a", "does not contain 'b'"),
        ({"excludes": "sorry"}, "fine", "so sorry", "it contains 'sorry'"),
        ({"matches": r"^\d+$"}, "42", "4 2", "nothing in it matches"),
        ({"json": True}, "[1]", '{"a": NaN}', "it is not JSON"),
        ({"schema": {"type": "object", "required": ["a"]}}, '{"a": 1}', "{}", "does not match the schema"),
        ({"max_words": 2}, "two words", "three words now", "3 words, more than 2"),
    ],
)
def test_properties(expected: dict[str, Any], good: str, bad: str, said: str) -> None:
    """Each property accepts what it should, and says what is wrong otherwise."""
    golden = Golden(prompt="?", **expected)
    assert problems_of(golden, good) == []
    (problem,) = problems_of(golden, bad)
    assert said in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "holds no list of prompts"),
        ("a: [", "is not YAML"),
        ("- 3", "prompt 1: is not a mapping"),
        ("- {prompt: x}", "prompt 1: nothing is expected"),
        ("- {contains: x}", "either prompt or messages"),
        ("- {prompt: x, contain: y}", "prompt 1.contain: unknown key 'contain'\n.*contains"),
        ("- {prompt: x, matches: '('}", "not a regular expression"),
        ("- {prompt: x, schema: {type: objct}}", "not a JSON Schema"),
        ("- {prompt: x, equals: y, name: a}\n- {prompt: y, equals: z, name: a}", "two prompts are called 'a'"),
    ],
)
def test_prompts_that_cannot_be_used(text: str, said: str, registry: Registry) -> None:
    """The error names the prompt, and nothing is registered."""
    Path("bad.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        set_goldens("bot", "bad.yaml", registry=registry)
    assert registry.count() == 2


@pytest.fixture
def run(registry: Registry, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command; return what it prints."""

    def command(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(registry.home), *arguments])
        printed = capsys.readouterr()
        assert (ended.value.code or 0) == code, printed.err
        return printed.out + printed.err

    return command


def test_from_golden_prompts_to_a_policy(run: Callable[..., str]) -> None:
    """The commands from registering prompts to a version that may become champion, each refusal with what to type."""
    run("models", "policy", "bot", "--require", "golden", "--perplexity", "2")
    assert "bot: @champion and deployments need the newest golden prompts passed, a perplexity" in run(
        "models", "policy", "bot"
    )
    assert "ftreg models golden bot goldens.yaml" in run("models", "alias", "bot:1", "champion", code=1)
    assert "bot-golden:1: 3 golden prompts" in run("models", "golden", "bot", "goldens.yaml")
    assert "ftreg eval --golden bot:1" in run("models", "alias", "bot:1", "champion", code=1)
    shown = run("eval", "bot:1", "--golden", code=1)
    assert "it is not JSON" in shown
    assert "bot:1 fails 1 of 3 golden prompts of bot-golden:1" in shown
    assert "it fails 1 golden prompts" in run("models", "alias", "bot:1", "champion", code=1)
    Path("goldens.jsonl").write_text('{"prompt": "Where is it?", "contains": ["Where"]}\n')
    run("models", "golden", "bot", "goldens.jsonl")
    facts = json.loads(run("eval", "bot:1", "--golden", "--json"))
    assert (facts["failed"], facts["results"][0]["name"]) == (0, "1")
    run("models", "alias", "bot:1", "champion")
    assert "policy: alias=champion certificate=False golden=True perplexity=0.02" in run("models", "log", "bot")
    assert run("models", "policy", "bot", "--remove").strip() == "bot has no policy"


def test_options_that_do_not_go_with_golden_prompts(run: Callable[..., str]) -> None:
    """An option that would be ignored is refused."""
    assert "metrics says nothing about golden prompts" in run("eval", "bot:1", "--golden", "--metric", "json", code=2)
    assert "set and removed at once" in run("models", "policy", "bot", "--require", "golden", "--remove", code=2)
