"""``ftreg experiment`` on the command line: reports, weights of a running server, promotion and rollback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ftreg import promote
from ftreg.cli.main import main
from ftreg.core.errors import FtregError
from ftreg.registry import Policy, Registry
from ftreg.serving.experiment.record import ExperimentRecord
from tests.command import ftreg
from tests.plugins.fakes import distribution, environment
from tests.registry.kit import publish
from tests.serving.experiments import CHALLENGER, CONTROL, deployment, request, variant

TOKEN = "a-secret"
SHOWN = {"experiment": "answers", "deployment": "support", "epoch": 1, "weights": {}, "shares": {}}


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of the deployment ``support``."""
    monkeypatch.setenv("FTREG_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("FTREG_ADMIN_TOKEN", raising=False)
    return tmp_path / "state" / "support"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry with bot:1, bot:2 and bot:3; the first is the champion."""
    with Registry(tmp_path / "home") as opened:
        for number in (1, 2, 3):
            publish(opened, "bot", {"a": str(number).encode()})
        opened.set_alias("bot:1", "champion")
        yield opened


@pytest.fixture
def run(registry: Registry, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``ftreg experiment`` in this process."""

    def run_command(*arguments: str) -> Result:
        code: Any = 0
        try:
            main(["--home", str(registry.home), "experiment", *arguments])
        except SystemExit as end:
            code = end.code or 0
        return Result(code, *capsys.readouterr())

    return run_command


def served(registry: Registry, *refs: str, rated: dict[str, float] | None = None, path: Path) -> None:
    """Record an experiment of registered versions with 100 users each; ``rated`` are their scores."""
    variants = [variant(ref, digest=registry.get(ref).digest) for ref in refs or (CONTROL, CHALLENGER)]
    record = ExperimentRecord(path, deployment(*variants))
    futures = []
    for number in range(100 * len(variants)):
        ref = variants[number % len(variants)].ref
        one = request(record.allocation, f"user-{number}", ref=ref, digest=registry.get(ref).digest)
        record.add(one)
        if rated:
            futures.append(record.feedback(one.id, rated[ref], None))
    for future in futures:
        future.result(10)
    record.close()


@pytest.fixture
def won(registry: Registry, state: Path) -> None:
    """An experiment that bot:2 has won."""
    served(registry, rated={CONTROL: 0.1, CHALLENGER: 0.9}, path=state / "experiment.db")


@pytest.fixture
def undecided(registry: Registry, state: Path) -> None:
    """An experiment without feedback."""
    served(registry, path=state / "experiment.db")


def champion(registry: Registry) -> str:
    """Return the version that the alias points to."""
    return registry.get("bot@champion").ref


def champions(registry: Registry) -> list[str]:
    """Return the champions of all names."""
    return sorted(version.ref for version in registry.list(limit=None) if "champion" in version.aliases)


def evidence(registry: Registry, ref: str) -> list[Any]:
    """Return the evidence of experiments on a version."""
    return [record.body for record in registry.evidence(ref) if record.type == "experiment"]


def test_status_shows_the_split(run: Run, undecided: None) -> None:
    """The status is printed as tables and as JSON."""
    shown = run("status", "support")
    assert shown.code == 0
    assert "bot:2" in shown.out
    assert "50.0%" in shown.out
    assert "epoch 1 since 20" in shown.out
    assert "bot:1=1 bot:2=1" in shown.out
    facts = json.loads(run("status", "support", "--json").out)
    assert [epoch["weights"] for epoch in facts["epochs"]] == [{CONTROL: 1, CHALLENGER: 1}]
    assert facts["requests"] == {"experiment": 200}
    assert [(row["ref"], row["share"], row["users"]) for row in facts["variants"]] == [
        (CONTROL, 0.5, 100), (CHALLENGER, 0.5, 100),
    ]  # fmt: skip


def test_report_shows_figures_and_verdict(run: Run, won: None) -> None:
    """The report is printed as tables with split and verdict, and completely as JSON."""
    shown = run("report", "support").out
    for part in (
        "bot:1",
        "against bot:1",
        "+0.800",
        "split: as the weights promise",
        "verdict: promote; bot:2 scores higher",
    ):
        assert part in shown
    facts = json.loads(run("report", "support", "--json").out)
    assert facts["verdict"]["decision"] == "promote"
    assert facts["comparisons"][0]["difference"]["value"] == pytest.approx(0.8)


def test_a_record_elsewhere_can_be_read(run: Run, registry: Registry, tmp_path: Path) -> None:
    """``--db`` reads another record, but only under its deployment's name."""
    served(registry, path=tmp_path / "copy.db")
    assert run("report", "support", "--db", str(tmp_path / "copy.db")).code == 0
    wrong = run("report", "other", "--db", str(tmp_path / "copy.db"))
    assert wrong.code == 2
    assert "is the record of support" in wrong.err


def test_promote_moves_the_alias_and_leaves_evidence(run: Run, registry: Registry, won: None) -> None:
    """Promotion leaves the whole report as evidence on the winner and the control."""
    done = run("promote", "support")
    assert done.code == 0, done.err
    assert "bot@champion now points to bot:2" in done.err
    assert champion(registry) == CHALLENGER
    for ref in (CONTROL, CHALLENGER):
        (body,) = evidence(registry, ref)
        assert (body["decision"], body["ref"], body["forced"]) == ("promote", CHALLENGER, False)
        assert body["report"]["verdict"]["decision"] == "promote"
    assert not evidence(registry, "bot:3")


def test_promote_wants_a_verdict_or_force(run: Run, registry: Registry, undecided: None) -> None:
    """Without a verdict nothing moves; with ``--force`` it does, and the evidence says so."""
    for arguments in (("promote", "support"), ("promote", "support", CHALLENGER)):
        refused = run(*arguments)
        assert refused.code == 1
        assert "inconclusive" in refused.err
    assert champion(registry) == CONTROL
    assert not evidence(registry, CONTROL)
    assert run("promote", "support", "--force").code == 0
    assert champion(registry) == CHALLENGER
    assert evidence(registry, CHALLENGER)[0]["forced"] is True


def test_force_against_the_verdict_is_on_record(run: Run, registry: Registry, state: Path) -> None:
    """A challenger other than the winner needs ``--force`` and, among several, its name."""
    served(registry, CONTROL, CHALLENGER, "bot:3", path=state / "experiment.db")
    assert "challenger must be named" in run("promote", "support", "--force").err
    served(
        registry,
        CONTROL,
        CHALLENGER,
        "bot:3",
        path=state / "experiment.db",
        rated={CONTROL: 0.1, CHALLENGER: 0.9, "bot:3": 0.1},
    )
    assert run("promote", "support", "bot:3").code == 1
    assert run("promote", "support", "bot:3", "--force").code == 0
    assert champion(registry) == "bot:3"
    assert evidence(registry, "bot:3")[0]["forced"] is True
    assert run("promote", "support", CHALLENGER, "--force").code == 0
    assert evidence(registry, CHALLENGER)[0]["forced"] is False


@pytest.mark.parametrize("ref", [CONTROL, "bot:9", "nonsense"])
def test_only_a_challenger_can_be_promoted(run: Run, registry: Registry, won: None, ref: str) -> None:
    """The control and versions outside of the experiment cannot be promoted, not even with ``--force``."""
    assert run("promote", "support", ref, "--force").code == 2
    assert champion(registry) == CONTROL


def test_rollback_goes_to_the_control(run: Run, registry: Registry, won: None) -> None:
    """Rollback moves the alias to the control, whatever the verdict, with evidence on all variants."""
    registry.set_alias(CHALLENGER, "champion")
    assert run("rollback", "support").code == 0
    assert champion(registry) == CONTROL
    assert [evidence(registry, ref)[0]["decision"] for ref in (CONTROL, CHALLENGER)] == ["roll back", "roll back"]


@pytest.fixture
def of_two_names(registry: Registry, state: Path) -> None:
    """An experiment of bot:1 and other:1, without feedback."""
    publish(registry, "other", {"a": b"other"})
    served(registry, CONTROL, "other:1", path=state / "experiment.db")


def test_one_variant_has_the_alias(run: Run, registry: Registry, of_two_names: None) -> None:
    """If a variant of another name gets the alias, it is removed from the other variants' names."""
    promoted = run("promote", "support", "other:1", "--force")
    assert (promoted.code, champions(registry)) == (0, ["other:1"])
    assert "other@champion now points to other:1" in promoted.err
    assert "bot@champion pointed to bot:1 and was removed" in promoted.err
    rolled = run("rollback", "support")
    assert (rolled.code, champions(registry)) == (0, ["bot:1"])
    assert "other@champion pointed to other:1 and was removed" in rolled.err


def test_an_alias_of_no_variant_stays(run: Run, registry: Registry, of_two_names: None) -> None:
    """An alias of a version outside of the experiment, and other aliases, are left alone."""
    registry.set_alias("bot:3", "champion")
    registry.set_alias(CONTROL, "stable")
    assert run("promote", "support", "other:1", "--force").code == 0
    assert champions(registry) == ["bot:3", "other:1"]
    assert registry.get(CONTROL).aliases == ("stable",)


def test_a_policy_refuses(run: Run, registry: Registry, won: None, state: Path) -> None:
    """What a policy wants of a champion, a winner needs too: from the command line, from Python, and with force."""
    registry.set_policy("bot", Policy(golden=True))
    for options in ((), ("--force",)):
        refused = run("promote", "support", *options)
        assert (refused.code, champion(registry)) == (1, CONTROL)
        assert "bot@champion cannot move to bot:2: bot has no golden prompts" in refused.err
    with pytest.raises(FtregError, match="bot has no golden prompts"):
        promote("support", CHALLENGER, registry=registry)
    assert champion(registry) == CONTROL
    goldens = publish(registry, "bot-golden", {"a": b"questions"})
    registry.add_evidence(CHALLENGER, "golden", {"goldens": goldens.digest, "failed": 0})
    assert (run("promote", "support").code, champion(registry)) == (0, CHALLENGER)


GATE = """
@hookimpl
def ftreg_check_promotion(version, alias, evidence):
    found = [record["body"] for record in evidence if record["type"] == "experiment"]
    if not found:
        return [Problem("no experiment")]
    return [Problem("by force")] if found[-1]["forced"] else []
"""


def test_gates_see_the_evidence_and_refuse_all(registry: Registry, of_two_names: None, tmp_path: Path) -> None:
    """Gates see the evidence; if one refuses, no alias moves, and no evidence claims that one has."""
    distribution(tmp_path, "fake-strict", {"strict": GATE})
    env = environment(tmp_path, FTREG_STATE=str(tmp_path / "state"))
    refused = ftreg("experiment", "promote", "support", "other:1", "--force", home=registry.home, env=env, code=1)
    assert "by force" in refused.stderr
    assert champions(registry) == ["bot:1"]
    [body] = evidence(registry, "other:1")
    assert set(body) == {"decision", "ref", "alias", "forced", "report"}
    assert not {"promoted", "moved"} & set(body)
    ftreg("experiment", "rollback", "support", home=registry.home, env=env)


def test_another_experiment_can_be_chosen(run: Run, registry: Registry, won: None, state: Path) -> None:
    """An earlier experiment can still be shown and decided; the status lists the others."""
    served(registry, CONTROL, "bot:3", path=state / "experiment.db")
    old = deployment(*(variant(ref, digest=registry.get(ref).digest) for ref in (CONTROL, CHALLENGER))).id
    shown = run("status", "support").out
    assert "bot:3" in shown
    assert old in shown
    facts = json.loads(run("status", "support", "--json").out)
    assert [(other["id"], other["name"], other["requests"]) for other in facts["others"]] == [(old, "answers", 200)]
    chosen = ("--experiment", old[:8])
    assert json.loads(run("status", "support", *chosen, "--json").out)["id"] == old
    assert json.loads(run("report", "support", *chosen, "--json").out)["verdict"]["decision"] == "promote"
    assert run("report", "support", "--experiment", "nothing").code == 2
    assert run("promote", "support", *chosen).code == 0
    assert champion(registry) == CHALLENGER
    assert run("rollback", "support", *chosen).code == 0
    assert champion(registry) == CONTROL
    assert [body["decision"] for body in evidence(registry, CHALLENGER)] == ["promote", "roll back"]
    assert not evidence(registry, "bot:3")


def test_an_empty_file_is_no_record(run: Run, state: Path) -> None:
    """An empty file, as a server leaves it that is killed while it starts, is not a record."""
    state.mkdir(parents=True)
    (state / "experiment.db").touch()
    for command in ("status", "report", "promote", "rollback"):
        result = run(command, "support")
        assert result.code == 2
        assert "no record" in result.err


def test_nothing_moves_where_a_version_is_gone(run: Run, registry: Registry, won: None) -> None:
    """If one of the versions is missing from the registry, nothing changes."""
    registry.delete(CHALLENGER)
    before = len(registry.events())
    for arguments in (("promote", "support"), ("rollback", "support")):
        refused = run(*arguments)
        assert refused.code == 2
        assert "bot:2" in refused.err
        assert "is not in this registry" in " ".join(refused.err.split())
    assert len(registry.events()) == before


def test_versions_are_found_by_digest(run: Run, registry: Registry, state: Path) -> None:
    """Served versions are found by digest, even if their reference means another version here."""
    digest = registry.get("bot:3").digest
    record = ExperimentRecord(
        state / "experiment.db",
        deployment(variant(CONTROL, digest=registry.get(CONTROL).digest), variant(CHALLENGER, digest=digest)),
    )
    record.close()
    assert run("promote", "support", CHALLENGER, "--force").code == 0
    assert champion(registry) == "bot:3"


def test_commands_without_a_record_say_where_it_would_be(run: Run, state: Path, undecided: None) -> None:
    """A misspelt name is an error with suggestions, and a name cannot leave the state folder."""
    missing = run("status", "suport")
    assert missing.code == 2
    assert "Did you mean support?" in missing.err
    for name in ("../support", "/etc", "Support"):
        assert run("report", name).code == 2
    (state / "experiment.db").write_bytes(b"garbage" * 1000)
    damaged = run("report", "support")
    assert damaged.code == 1
    assert "damaged" in damaged.err


class Server(HTTPServer):
    """An admin endpoint that keeps requests and answers as configured."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.shown: tuple[int, Any] = (200, SHOWN)
        self.answer: tuple[int, Any] = (200, None)
        self.asked: list[tuple[str, str | None]] = []
        self.got: list[tuple[str, str, str | None, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Show the experiment."""
        server: Server = self.server
        server.asked.append((self.path, self.headers["Authorization"]))
        self.reply(*server.shown)

    def do_PUT(self) -> None:
        """Answer as configured."""
        server: Server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.got.append((self.command, self.path, self.headers["Authorization"], body))
        self.reply(*server.answer)

    def reply(self, status: int, answer: Any) -> None:
        """Send JSON, or bytes as they are; a redirect leads to another path."""
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Log nothing."""


@pytest.fixture
def server(state: Path) -> Iterator[Server]:
    """A running server, whose token is stored."""
    state.mkdir(parents=True)
    (state / "admin-token").write_text(TOKEN + "\n")
    started = Server()
    thread = threading.Thread(target=started.serve_forever, args=(0.01,))
    thread.start()
    yield started
    started.shutdown()
    thread.join()
    started.server_close()


def test_set_changes_weights_on_the_server(run: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are sent with the stored, the environment's or the given token, and never through a proxy."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    weights, shares = {CONTROL: 80, CHALLENGER: 20}, {CONTROL: 0.8, CHALLENGER: 0.2}
    answer = SHOWN | {"epoch": 2, "weights": weights, "shares": shares}
    server.answer = (200, answer)
    shown = run("set", "support", "bot:1=80", "bot:2=2e1", "--url", server.url)
    assert shown.code == 0, shown.err
    assert "80.0%" in shown.out
    assert (
        json.loads(run("set", "support", "bot:2=20", "--url", f"{server.url}/", "--token", "given", "--json").out)
        == answer
    )
    monkeypatch.setenv("FTREG_ADMIN_TOKEN", "from-environment")
    run("set", "support", "bot:2=20", "--url", server.url)
    assert server.got == [
        ("PUT", "/admin/experiment", "Bearer a-secret", {"weights": {CONTROL: 80.0, CHALLENGER: 20.0}}),
        ("PUT", "/admin/experiment", "Bearer given", {"weights": {CHALLENGER: 20.0}}),
        ("PUT", "/admin/experiment", "Bearer from-environment", {"weights": {CHALLENGER: 20.0}}),
    ]


@pytest.mark.parametrize(
    ("shown", "code", "said"),
    [
        ((200, SHOWN | {"deployment": "other"}), 2, "serves other, not support"),
        ((200, {"weights": {}, "shares": {}}), 1, "not one of ftreg's"),
        ((302, b""), 1, "not one of ftreg's"),
        ((401, {"error": {"message": "no"}}), 2, "refuses the admin token"),
        ((503, {"error": {"message": "could not start"}}), 1, "could not start"),
    ],
)
def test_another_deployment_is_left_alone(run: Run, server: Server, shown: Any, code: int, said: str) -> None:
    """If the server serves another deployment, or is not ftreg's, no weights are sent."""
    server.shown = shown
    result = run("set", "support", "bot:2=20", "--url", server.url, "--token", TOKEN)
    assert (result.code, result.out) == (code, "")
    assert server.url in result.err
    assert said in result.err
    assert server.asked == [("/admin/experiment", f"Bearer {TOKEN}")]
    assert not server.got


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ((401, {"error": {"message": "no"}}), 2, "refuses the admin token"),
        (
            (404, {"error": {"message": "no variant named 'bot:9'\n  Did you mean bot:2?"}}),
            2,
            "Did you mean bot:2?",
        ),
        ((400, {"error": {"message": "all weights are 0"}}), 2, "all weights are 0"),
        ((503, {"error": {"message": "the disk is full"}}), 1, "the disk is full"),
        ((404, b"<html>Not Found</html>"), 1, "not one of ftreg's"),
        ((200, b"<html>Welcome</html>"), 1, "not one of ftreg's"),
        ((200, {"weights": []}), 1, "not one of ftreg's"),
        ((200, [1]), 1, "not one of ftreg's"),
        ((302, b""), 1, "not one of ftreg's"),
    ],
)
def test_what_the_server_refuses_is_said(run: Run, server: Server, answer: Any, code: int, said: str) -> None:
    """A refusal of the server is shown in its own words."""
    server.answer = answer
    result = run("set", "support", "bot:2=20", "--url", server.url)
    assert (result.code, result.out) == (code, "")
    assert said in " ".join(result.err.split())


def test_a_server_that_does_not_run_is_named(run: Run, server: Server) -> None:
    """If no server answers, the error names the address and says what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = run("set", "support", "bot:2=20", "--url", url)
    assert result.code == 1
    assert url in result.err
    assert "--url" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("bot:2",),
        ("bot:2=",),
        ("=1",),
        ("bot:2=many",),
        ("bot:2=nan",),
        ("bot:2=-1",),
        ("bot:2=inf",),
        ("bot:2=1", "bot:2=2"),
        (),
        ("bot:2=1", "--url", "ftp://127.0.0.1"),
        ("bot:2=1", "--url", "file:///etc/passwd"),
        ("bot:2=1", "--url", "nonsense"),
        ("bot:2=1", "--url", "http://[::1"),
        ("bot:2=1", "--url", "http://127.0.0.1:port"),
        ("bot:2=1", "--url", "http://\N{SNOWMAN}..:1"),
        ("bot:2=1", "--token", "two\nlines"),
    ],
)
def test_bad_weights_and_addresses_are_refused_here(run: Run, server: Server, arguments: tuple[str, ...]) -> None:
    """Invalid weights and addresses are refused before anything is sent."""
    assert run("set", "support", *arguments).code == 2
    assert not server.asked
    assert not server.got


def test_without_a_token_it_says_where_one_would_be(run: Run, state: Path) -> None:
    """Without a token, the error says where it would be and how to give one."""
    result = run("set", "support", "bot:2=1")
    assert result.code == 2
    assert str(state / "admin-token") in " ".join(result.err.split())
    assert "FTREG_ADMIN_TOKEN" in result.err


def test_help_loads_nothing_heavy() -> None:
    """The help of ``ftreg experiment`` loads neither numpy nor pydantic nor the serving package."""
    script = (
        "import sys; from ftreg.cli.experiment import command; command(['--help'], standalone_mode=False); "
        "heavy = {'numpy', 'pydantic', 'starlette', 'bentoml', 'torch', 'ftreg.serving', 'urllib.request', 'sqlite3'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
