"""The commands ``ftreg models``, ``lineage``, ``verify`` and ``gc``, as users type them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ftreg.cli.main import main
from ftreg.registry import Registry
from ftreg.registry.runs import hold_run
from tests.registry.kit import blob_of, publish


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Create a registry with a base, two versions made from it, and a merge."""
    with Registry(tmp_path / "home") as registry:
        base = publish(registry, "base", {"a": b"base"}, tags={"license": "mit"})
        publish(registry, "bot", {"a": b"1"}, parents=[base], facts={"dtype": "float32"}, tags={"note": "[odd] one"})
        bot = publish(
            registry,
            "bot",
            {"a": b"2"},
            parents=[base],
            report={"loss.png": b"curve"},
            evidence=[("run", {"tokens": 100, "curve": [1] * 20}), ("certificate", {"parity": {"kl": 0.01}})],
        )
        publish(registry, "merged", {"a": b"3"}, parents=[base, bot])
        registry.set_alias("bot:2", "champion")
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command in this process."""

    def run_command(*arguments: str) -> Result:
        code: Any = 0
        try:
            main(["--home", str(home), *arguments])
        except SystemExit as end:
            code = end.code or 0
        return Result(code, *capsys.readouterr())

    return run_command


def test_list_shows_and_filters(run: Run) -> None:
    """``models list`` shows the newest version first, filters, and prints the same facts as JSON."""
    shown = run("models", "list").out
    assert shown.index("merged:1") < shown.index("bot:2") < shown.index("base:1")
    assert "@champion" in shown
    assert "note=[odd] one" in shown
    listed = json.loads(run("models", "list", "--name", "bot", "--json").out)
    assert [version["ref"] for version in listed] == ["bot:2", "bot:1"]
    assert listed[0]["aliases"] == ["champion"]
    assert [v["ref"] for v in json.loads(run("models", "list", "--tag", "license=mit", "--json").out)] == ["base:1"]
    assert json.loads(run("models", "list", "--kind", "onnx", "--json").out) == []
    limited = run("models", "list", "--limit", "1")
    assert "bot" not in limited.out
    assert "--limit" in limited.err


def test_show_tells_everything(run: Run, home: Path) -> None:
    """``models show`` prints everything about a version, as text and as JSON."""
    card = run("models", "show", "bot@champion").out
    for part in ("bot:2", "@champion", "base:1", "rank  8", "0.01", "loss.png", str(home / "views"), "20 entries"):
        assert part in card
    facts = json.loads(run("models", "show", "bot:2", "--json").out)
    assert facts["parents"][0]["ref"] == "base:1"
    assert facts["producer"]["config"] == {"rank": 8}
    assert [record["type"] for record in facts["evidence"]] == ["run", "certificate"]
    assert Path(facts["folder"], "a").read_bytes() == b"2"
    assert Path(facts["evidence"][0]["files"]["loss.png"]).read_bytes() == b"curve"


def test_show_of_a_damaged_version_says_so(run: Run, home: Path) -> None:
    """``models show`` of a version with a missing file says so and still prints the rest."""
    with Registry(home) as registry:
        blob_of(registry, registry.get("bot:1"), "a").unlink()
    card = run("models", "show", "bot:1")
    assert card.code == 0
    assert "DAMAGED" in card.out


def test_tags_and_aliases_are_set_and_removed(run: Run) -> None:
    """Setting and removing tags and aliases reports on standard error; standard output stays empty."""
    assert run("models", "tag", "bot:1", "stage=test", "a=b=c").out == ""
    assert json.loads(run("models", "show", "bot:1", "--json").out)["tags"]["a"] == "b=c"
    assert run("models", "tag", "bot:1", "--remove", "stage").code == 0
    assert "bot@champion now points to bot:1" in run("models", "alias", "bot:1", "champion").err
    assert run("models", "alias", "bot", "champion", "--remove").code == 0
    assert run("models", "show", "bot@champion").code == 2


def test_the_log_is_readable(run: Run) -> None:
    """``models log`` shows the whole log, the log of one name, and where aliases pointed at a given time."""
    run("models", "alias", "bot:1", "champion")
    log = run("models", "log").out
    assert "became @champion after bot:2" in log
    assert "certificate recorded" in log
    assert "merged" not in run("models", "log", "bot").out
    events = json.loads(run("models", "log", "bot:2", "--json").out)
    assert [event["action"] for event in events] == ["alias_set", "evidence", "evidence", "published"]
    assert [
        event["number"] for event in json.loads(run("models", "log", "bot", "--at", "2999-01-01", "--json").out)
    ] == [1]
    assert json.loads(run("models", "log", "bot", "--at", "2000-01-01", "--json").out) == []


def test_delete_and_gc(run: Run) -> None:
    """``models delete`` refuses versions in use, and ``gc`` frees the files of a deleted one."""
    assert run("models", "delete", "bot:2").code == 2
    assert run("models", "delete", "base:1").code == 2
    assert run("models", "delete", "bot:1").code == 0
    assert "would free 1 B" in run("gc", "--dry-run", "--grace", "0").out
    report = json.loads(run("gc", "--grace", "0s", "--json").out)
    assert (report["manifests"], report["blobs"], report["size"]) == (1, 1, 1)
    assert run("verify", "--quick").out.endswith("no damage\n")


@pytest.fixture
def twin(home: Path) -> None:
    """Publish ``bot:2`` a second time, as ``twin:1``."""
    with Registry(home) as registry:
        publish(registry, "twin", {"a": b"2"}, parents=[registry.get("base")], evidence=[("run", {"tokens": 7})])


@pytest.mark.usefixtures("twin")
def test_a_version_with_a_twin_keeps_its_name(run: Run) -> None:
    """With two names for one digest, ``lineage`` and ``models show`` use the one asked for and say the other."""
    for ref, other in (("bot:2", "twin:1"), ("twin", "bot:2")):
        name = ref if ":" in ref else f"{ref}:1"
        assert run("lineage", ref).out.startswith(f"{name} (also {other}) checkpoint")
        graph = json.loads(run("lineage", ref, "--json").out)
        root = next(node for node in graph["nodes"] if node["digest"] == graph["root"])
        assert (root["ref"], root["also"]) == (name, [other])
        card = run("models", "show", ref).out
        assert card.startswith(name)
        assert f"also        {other}" in card
        assert card.count(f"recorded for {other}") == (2 if name == "twin:1" else 1)
        facts = json.loads(run("models", "show", ref, "--json").out)
        assert (facts["ref"], facts["also"]) == (name, [other])
        assert [record["ref"] for record in facts["evidence"]] == ["bot:2", "bot:2", "twin:1"]
    assert "bot:2 (also twin:1)" in run("lineage", "merged").out
    assert "(also" not in run("lineage", "bot:1").out.splitlines()[0]
    assert "also" not in run("models", "show", "bot:1").out


@pytest.mark.usefixtures("twin")
def test_the_log_of_a_version_with_a_twin_keeps_its_name(run: Run) -> None:
    """The log of one of two names shows that name, and says which evidence was recorded for the other."""
    for name, other, foreign in (("bot:2", "twin:1", 1), ("twin:1", "bot:2", 2)):
        rows = run("models", "log", name).out.splitlines()[1:]
        assert all(f"  {name}  " in row for row in rows)
        assert sum(row.endswith(f"recorded for {other}, the same digest") for row in rows) == foreign
        assert {event["ref"] for event in json.loads(run("models", "log", name, "--json").out)} == {name}
    run("models", "alias", "twin", "best")
    run("models", "alias", "bot:1", "champion")
    assert "became @champion after bot:2" in run("models", "log").out
    evidence = [event for event in json.loads(run("models", "log", "--json").out) if event["action"] == "evidence"]
    assert [event["ref"] for event in evidence] == ["twin:1", "bot:2", "bot:2"]


@pytest.mark.usefixtures("twin")
def test_delete_of_a_version_with_a_twin(run: Run) -> None:
    """``models delete`` deletes the name that was given, and says which versions keep the bytes."""
    deleted = run("models", "delete", "twin:1", "--force")
    assert "twin:1 was deleted; its bytes are kept for bot:2, merged:1" in deleted.err
    assert run("models", "show", "twin:1").code == 2
    assert run("models", "show", "bot:2").code == 0
    newest = json.loads(run("models", "log", "twin", "--json").out)[0]
    assert (newest["ref"], newest["action"]) == ("twin:1", "deleted")


def test_gc_says_what_unfinished_trainings_hold(run: Run, home: Path) -> None:
    """``gc`` keeps the checkpoints of an unfinished training and says how to go on; ``--runs`` frees them."""
    folder = home / "runs" / "key"
    os.close(hold_run(folder, "slow-bot"))
    (folder / "checkpoint-3").write_bytes(b"x" * 2000)
    kept = run("gc", "--grace", "0").out
    assert kept.startswith("freed 0 B")
    for part in ("slow-bot", "unfinished", "2.0 kB", "kept", "--resume", "ftreg gc --runs"):
        assert part in kept
    (listed,) = json.loads(run("gc", "--dry-run", "--json").out)["kept_runs"]
    assert (listed["name"], listed["size"], listed["folder"]) == ("slow-bot", 2000, str(folder))
    assert "would be freed" in run("gc", "--runs", "--grace", "0", "--dry-run").out
    assert run("gc", "--runs", "--grace", "0").out.startswith("freed 2.0 kB")
    assert not folder.exists()
    assert "slow-bot" not in run("gc").out


def test_delete_names_all_aliases(run: Run) -> None:
    """The refusal to delete a version with two aliases has a command for each; with ``--json`` it is the same error."""
    run("models", "alias", "bot:2", "best")
    refused = run("models", "delete", "bot:2")
    assert (refused.code, refused.out) == (2, "")
    for alias in ("best", "champion"):
        assert f"  ftreg models alias --remove bot {alias}\n" in refused.err
    assert run("models", "delete", "bot:2", "--json") == refused
    run("models", "alias", "--remove", "bot", "best")
    run("models", "alias", "--remove", "bot", "champion")
    facts = json.loads(run("models", "delete", "bot:2", "--force", "--json").out)
    assert (facts["ref"], facts["deleted"], facts["kept_for"]) == ("bot:2", True, ["merged:1"])


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("tag", "stage=final test", "bot:1"), "ftreg models tag bot:1 'stage=final test'"),
        (("tag", "a=1", "bot:1", "b=2"), "ftreg models tag bot:1 a=1 b=2"),
        (("tag", "a=1"), "ftreg models tag REF a=1"),
        (("alias", "champion", "bot:1"), "ftreg models alias bot:1 champion"),
    ],
)
def test_swapped_arguments_are_recognised(run: Run, arguments: tuple[str, ...], hint: str) -> None:
    """A tag or an alias in the place of the version gets the right command."""
    refused = run("models", *arguments)
    assert refused.code == 2
    assert "the version comes first" in refused.err
    assert refused.err.endswith(f"Write: {hint}\n")


def test_verify_fails_with_the_damage_named(run: Run, home: Path) -> None:
    """``verify`` exits with 1 and names the damaged file; ``--json`` reports the same damage."""
    assert json.loads(run("verify", "--json").out)["ok"] is True
    with Registry(home) as registry:
        blob_of(registry, registry.get("base"), "a").unlink()
    failed = run("verify")
    assert failed.code == 1
    assert "a of base:1 is missing" in failed.out
    report = json.loads(run("verify", "bot:1", "--json").out)
    assert report["ok"] is False
    assert len(report["damages"]) == 1


def test_verify_can_rebuild_the_catalog(run: Run, home: Path) -> None:
    """``verify --rebuild`` restores a lost catalog, as the error of every other command suggests."""
    (home / "registry.db").unlink()
    lost = run("models", "list")
    assert lost.code == 1
    assert "ftreg verify --rebuild" in lost.err
    assert "4 versions" in run("verify", "--rebuild").out
    assert json.loads(run("models", "show", "bot@champion", "--json").out)["ref"] == "bot:2"


def test_lineage_in_three_formats(run: Run) -> None:
    """``lineage`` shows the same graph as a tree, as a Mermaid chart and as JSON."""
    tree = run("lineage", "bot:2").out
    assert tree.index("made from") < tree.index("base:1") < tree.index("made into") < tree.index("merged:1")
    chart = run("lineage", "bot:2", "--mermaid").out
    assert chart.startswith("flowchart TD")
    assert chart.count("-->|base|") == 3
    graph = json.loads(run("lineage", "bot:2", "--json").out)
    assert {node["ref"] for node in graph["nodes"]} == {"base:1", "bot:2", "merged:1"}
    assert len(graph["edges"]) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("models", "show", "nothing"),
        ("models", "show", "bot:9"),
        ("models", "list", "--tag", "novalue"),
        ("models", "list", "--tag", "a=1", "--tag", "a=2"),
        ("models", "tag", "bot:1"),
        ("models", "tag", "bot:1", "novalue"),
        ("models", "tag", "bot:1", "--remove", "nothing"),
        ("models", "alias", "bot:1", "Champion"),
        ("models", "alias", "bot:1", "3"),
        ("models", "alias", "bot", "nothing", "--remove"),
        ("models", "delete", "bot"),
        ("models", "log", "--at", "2026-01-01"),
        ("models", "log", "bot", "--at", "yesterday"),
        ("models", "log", "nothing"),
        ("lineage", "nothing"),
        ("lineage", "bot", "--dot"),
        ("verify", "nothing"),
        ("gc", "--grace", "soon"),
    ],
)
def test_bad_input_is_one_message_and_code_2(run: Run, home: Path, arguments: tuple[str, ...]) -> None:
    """Bad input exits with 2 and one message, and changes nothing in the registry."""
    with Registry(home) as registry:
        before = len(registry.events())
        result = run(*arguments)
        assert (result.code, result.out) == (2, "")
        assert "rror" in result.err
        assert len(registry.events()) == before


def test_listing_loads_no_heavy_library(home: Path) -> None:
    """``models list`` imports neither torch nor any other heavy library."""
    script = (
        f"import sys; from ftreg.cli.main import main; main(['--home', {str(home)!r}, 'models', 'list']); "
        "heavy = {'torch', 'transformers', 'peft', 'bentoml', 'onnxruntime', 'numpy', 'pydantic', 'yaml'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
