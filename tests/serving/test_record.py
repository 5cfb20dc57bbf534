"""The record survives restarts, kills, full disks and several processes, and keeps nobody waiting."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftreg.core.errors import DiskFull, FtregError, InputError, UnknownName
from ftreg.serving.experiment.database import MIGRATIONS
from ftreg.serving.experiment.history import read
from ftreg.serving.experiment.record import Record, check_deployable
from ftreg.serving.experiment.routing import Allocation
from tests.serving.experiments import CHALLENGER, CONTROL, deployment, request, variant

ROOT = Path(__file__).parents[2]
SOON = 5.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the record is to be made."""
    return tmp_path / "state" / "experiment.db"


@pytest.fixture
def record(path: Path) -> Iterator[Record]:
    """A record of two variants."""
    opened = Record(path, deployment())
    yield opened
    opened.close()


def left_open(path: Path) -> list[str]:
    """The record's files that this process holds open, and its writers."""
    files = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            files.append(str(descriptor.readlink()))
    writers = [thread.name for thread in threading.enumerate() if thread.name == "ftreg-record"]
    return [file for file in files if file.startswith(str(path.parent))] + writers


def wait_until(true: object) -> None:
    """Wait for something to become true, and fail where it does not."""
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def count(path: Path, table: str = "requests") -> int:
    """How many rows a table has, as another process sees it."""
    database = sqlite3.connect(path)
    try:
        return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    finally:
        database.close()


def fill_disk(record: Record, *, full: bool) -> None:
    """Let SQLite find no room for further pages, as on a full disk, or find room again."""
    pages = record._ledger._db.execute("PRAGMA page_count").fetchone()[0]
    record._ledger._db.execute(f"PRAGMA max_page_count = {pages if full else 1 << 30}")


def test_requests_are_on_disk_soon(record: Record, path: Path) -> None:
    """Within a moment, without anybody asking; what is recorded is what was given, but for the key."""
    given = request(record.allocation, "anna@example.org", error="timeout", status=408, first_token=None, finish=None)
    started = time.monotonic()
    record.add(given)
    wait_until(lambda: count(path))
    assert time.monotonic() - started < 2
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    row = dict(database.execute("SELECT * FROM requests").fetchone())
    database.close()
    stored = {name: row[name] for name in vars(given) if name != "unit"}
    assert stored == {name: value for name, value in vars(given).items() if name != "unit"}
    assert row["experiment"] == deployment().id
    everything = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"anna@example.org" not in everything


def test_adding_waits_for_nothing(record: Record, path: Path) -> None:
    """Not even while another process holds the file's lock; all of it is written after."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    for _ in range(1000):
        record.add(request(record.allocation))
    assert time.monotonic() - started < 2
    other.execute("ROLLBACK")
    other.close()
    record.close()
    assert count(path) == 1000


def test_an_id_is_recorded_once_for_each_variant(record: Record, path: Path) -> None:
    """A repeated id neither replaces the request nor stops the writer; a shadow's answer has the request's id."""
    first = request(record.allocation, ref=CONTROL, id="same")
    record.add(first)
    record.add(request(record.allocation, ref=CONTROL, id="same", latency=9.0))
    record.add(request(record.allocation, ref="bot:3", id="same", route="shadow"))
    record.add(request(record.allocation))
    record.feedback("same", 1.0, None).result(SOON)
    record.close()
    assert count(path) == 3
    usage = {usage.route: usage for usage in read(path).usage if usage.ref in (CONTROL, "bot:3")}
    assert usage["experiment"].latency_p50 == 0.5
    assert (usage["experiment"].feedback, usage["shadow"].feedback) == (1, 0)


def test_feedback_is_durable_when_it_is_done(record: Record, path: Path) -> None:
    """The newest replaces what was said before, in its place; the text may be anything."""
    requests = [request(record.allocation, ref=CONTROL) for _ in range(2)]
    for one in requests:
        record.add(one)
        record.feedback(one.id, 0.25, "so-so \ud800 ✓").result(SOON)
    assert count(path, "feedback") == 2
    record.feedback(requests[0].id, 1.0, None).result(SOON)
    assert count(path, "feedback") == 2
    assert read(path).scores == ((CONTROL, 1.0), (CONTROL, 0.25))


def test_feedback_on_an_unknown_request_fails(record: Record) -> None:
    """After it has waited a moment for the request; a shadow's answer was never seen by anybody."""
    record.add(request(record.allocation, id="unseen", route="shadow"))
    for name in ("nothing", "unseen", "\ud800"):
        with pytest.raises(UnknownName, match="request"):
            record.feedback(name, 1.0, None).result(SOON)


def test_feedback_may_overtake_its_request(path: Path, record: Record) -> None:
    """The request may be with another process, which gathers it for a moment."""
    other = Record(path, deployment())
    one = request(record.allocation)
    future = other.feedback(one.id, 1.0, None)
    time.sleep(0.2)
    record.add(one)
    assert future.result(SOON) is None
    other.close()


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_score_is_from_0_to_1(record: Record, score: float) -> None:
    """Anything else is refused at once."""
    with pytest.raises(InputError):
        record.feedback("any", score, None)


def test_weights_change_durably(record: Record, path: Path) -> None:
    """Variants that are not named keep their weight; the same weights again are no new epoch; a restart keeps them."""
    assert record.allocation == Allocation.of({CONTROL: 80, CHALLENGER: 20})
    changed = record.change_weights({CHALLENGER: 80})
    assert (
        changed
        == record.allocation
        == Allocation.of({CONTROL: 80, CHALLENGER: 20}).change({CONTROL: 80, CHALLENGER: 80})
    )
    assert read(path).allocations[-1] == changed
    assert record.change_weights({CONTROL: 80.0}).epoch == 2
    record.close()
    again = Record(path, deployment())
    assert again.allocation == changed
    again.close()


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ({"bot:3": 1}, UnknownName),
        ({CONTROL: -1}, InputError),
        ({CONTROL: float("nan")}, InputError),
        ({CONTROL: 0, CHALLENGER: 0}, InputError),
    ],
)
def test_weights_that_cannot_be_are_refused(record: Record, weights: dict[str, float], error: type[Exception]) -> None:
    """And nothing has changed; the record goes on."""
    before = record.allocation
    with pytest.raises(error):
        record.change_weights(weights)
    assert record.allocation == before
    assert record.change_weights({CONTROL: 1}).epoch == 2


def test_processes_see_each_others_weights(record: Record, path: Path) -> None:
    """Within a second, and epochs are counted over all of them."""
    other = Record(path, deployment())
    record.change_weights({CHALLENGER: 30})
    wait_until(lambda: other.allocation.epoch == 2)
    assert other.allocation == record.allocation
    assert other.change_weights({CHALLENGER: 40}).epoch == 3
    other.close()


def test_another_deployment_is_another_experiment(record: Record, path: Path) -> None:
    """Other versions begin anew in the same file; reading takes the one that was served last, or any by its id."""
    record.add(request(record.allocation))
    record.close()
    other = deployment(variant(CONTROL), variant("bot:3"))
    Record(path, other).close()
    assert read(path).experiment == other.id
    assert not read(path).usage
    assert read(path, deployment().id).usage
    Record(path, deployment()).close()
    assert read(path).experiment == deployment().id
    for nothing in ("nothing", "", "%", "_"):
        with pytest.raises(UnknownName):
            read(path, nothing)


def test_an_experiment_is_chosen_by_id_or_name(record: Record, path: Path) -> None:
    """The beginning of an id is enough where it is one's alone; each history lists the others, with their requests."""
    record.add(request(record.allocation))
    record.close()
    tone, again = deployment(experiment="tone"), deployment(salt="other")
    for other in (tone, again):
        Record(path, other).close()
    assert read(path).experiment == again.id
    assert read(path, "tone").experiment == read(path, tone.id[:10]).experiment == tone.id
    with pytest.raises(InputError, match="several") as refused:
        read(path, "answers")
    assert deployment().id in str(refused.value)
    assert again.id in str(refused.value)
    assert [(one.id, one.name, one.requests) for one in read(path, "tone").others] == [
        (again.id, "answers", 0), (deployment().id, "answers", 1),
    ]  # fmt: skip


def test_the_newest_deployment_is_read(record: Record, path: Path) -> None:
    """The same experiment with another shadow and an alias goes on; its history knows both."""
    Record(path, deployment(shadows=(variant("bot:3"),), alias="stable")).close()
    assert read(path).deployment.alias == "stable"


def test_the_same_versions_under_other_names_are_refused(record: Record, path: Path) -> None:
    """For their requests would no longer be found."""
    renamed = deployment(variant("copy:1", digest=f"b3:{CONTROL}"), variant(CHALLENGER))
    assert renamed.id == deployment().id
    record.close()
    for take_up in (Record, check_deployable):
        with pytest.raises(InputError, match="copy:1"):
            take_up(path, renamed)
        assert not left_open(path)
    check_deployable(path, deployment())
    check_deployable(path, deployment(salt="other"))
    assert [one.id for one in read(path).others] == []


def test_a_deployment_can_be_checked_where_there_is_no_record(path: Path) -> None:
    """It may be deployed, and nothing is made; what is there and is no record is refused."""
    check_deployable(path, deployment())
    assert not path.parent.exists()
    path.parent.mkdir()
    path.touch()
    check_deployable(path, deployment())
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(FtregError, match="damaged"):
        check_deployable(path, deployment())


def test_other_weights_are_warned_of(record: Record, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The experiment keeps its own; both are named once, with the command that changes them; equal shares are equal."""
    record.close()
    with caplog.at_level(logging.WARNING, "ftreg.serving"):
        Record(path, deployment(variant(CONTROL, 8), variant(CHALLENGER, 2))).close()
        assert not caplog.records
        Record(path, deployment(variant(CONTROL, 50), variant(CHALLENGER, 12.5))).close()
        assert not caplog.records
        again = Record(path, deployment(variant(CONTROL, 50), variant(CHALLENGER, 50.25)))
    again.close()
    assert again.allocation.weights == {CONTROL: 80, CHALLENGER: 20}
    [warning] = caplog.messages
    assert "bot:1=80 bot:2=20" in warning
    assert warning.endswith("ftreg experiment set support bot:1=50 bot:2=50.25")


def test_an_empty_file_is_begun_anew(path: Path) -> None:
    """A server that was killed at once leaves a file without anything, or without tables: that is no record yet."""
    path.parent.mkdir()
    path.touch()
    with pytest.raises(UnknownName, match="no record"):
        read(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size
    with pytest.raises(UnknownName, match="no record"):
        read(path)
    Record(path, deployment()).close()
    assert read(path).experiment == deployment().id


def test_only_its_owner_reads_it(record: Record, path: Path) -> None:
    """The file, and those that SQLite keeps beside it, whatever the umask lets through."""
    record.add(request(record.allocation))
    wait_until(lambda: count(path))
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["experiment.db", "experiment.db-wal", "experiment.db-shm"], "0o600")


def test_a_newer_record_is_refused(path: Path) -> None:
    """To write as to read, with a word on what to do."""
    Record(path, deployment()).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()
    for action in (lambda: Record(path, deployment()), lambda: read(path)):
        with pytest.raises(FtregError, match="Upgrade"):
            action()


def test_what_is_no_record_is_refused(path: Path, tmp_path: Path) -> None:
    """Damaged files, other programs' databases, folders, and paths that cannot be: one error each, nothing changed."""
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (id)")
    database.close()
    before = [path.read_bytes(), other.read_bytes()]
    (tmp_path / "folder").mkdir()
    for bad in (path, other, tmp_path / "folder", path / "inside"):
        with pytest.raises(FtregError) as writing:
            Record(bad, deployment())
        with pytest.raises(FtregError) as reading:
            read(bad)
        assert str(bad) in str(writing.value)
        assert str(bad) in str(reading.value)
        assert not left_open(path)
    assert [path.read_bytes(), other.read_bytes()] == before
    with pytest.raises(InputError, match="no record"):
        read(tmp_path / "missing.db")


def test_damage_is_said_to_be_damage(path: Path) -> None:
    """A record whose pages were overwritten is told from one that cannot be opened."""
    record = Record(path, deployment())
    for _ in range(100):
        record.add(request(record.allocation))
    record.close()
    content = bytearray(path.read_bytes())
    content[4096 : len(content)] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(FtregError, match="damaged"):
        Record(path, deployment())
    assert not left_open(path)


def test_a_record_that_fails_late_leaves_nothing_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one whose page of allocations is damaged, which is read last."""

    def fail(_: object) -> None:
        raise sqlite3.DatabaseError("malformed")

    monkeypatch.setattr("ftreg.serving.experiment.ledger.Ledger.allocation", fail)
    with pytest.raises(sqlite3.DatabaseError):
        Record(path, deployment())
    assert not left_open(path)


def test_a_full_disk_stops_nothing(record: Record, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Requests wait until there is room, whoever waits is told, the failure is logged once, and nothing is lost."""
    fill_disk(record, full=True)
    with caplog.at_level(logging.WARNING, "ftreg.serving"):
        for _ in range(500):
            record.add(request(record.allocation))
        with pytest.raises(DiskFull):
            record.change_weights({CONTROL: 1})
        with pytest.raises(DiskFull):
            record.feedback("any", 1.0, None).result(SOON)
        assert count(path) == 0
        fill_disk(record, full=False)
        record.add(request(record.allocation))
        wait_until(lambda: count(path) == 501)
    assert record.lost == 0
    assert [entry.levelname for entry in caplog.records] == ["ERROR", "WARNING"]


def test_what_cannot_be_kept_is_counted(record: Record, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest requests are given up where too many wait, and all of them where the server ends."""
    monkeypatch.setattr("ftreg.serving.experiment.record._MOST_WAITING", 200)
    fill_disk(record, full=True)
    for _ in range(500):
        record.add(request(record.allocation))
    wait_until(lambda: record.lost >= 300)
    assert record.lost == 300
    record.close()
    record.add(request(record.allocation))
    assert record.lost == 501
    assert count(path) == 0


def test_a_defect_stops_nothing(record: Record, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Requests that cannot be stored are counted as lost, and the next are stored."""
    record.add(request(record.allocation, finish=object()))
    wait_until(lambda: record.lost == 1)
    record.add(request(record.allocation))
    wait_until(lambda: count(path) == 1)


def test_a_closed_record_says_so(record: Record) -> None:
    """Nobody waits for a writer that has ended; closing twice is no error."""
    record.close()
    record.close()
    with pytest.raises(FtregError, match="closed"):
        record.change_weights({CONTROL: 1})
    with pytest.raises(FtregError, match="closed"):
        record.feedback("any", 1.0, None)


def test_it_can_be_read_while_it_is_written(record: Record, path: Path) -> None:
    """Readers see whole states, and hinder nobody, however long they read."""
    one = request(record.allocation)
    record.add(one)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM feedback").fetchone()[0] == 0
    record.feedback(one.id, 1.0, None).result(SOON)
    assert reader.execute("SELECT count(*) FROM feedback").fetchone()[0] == 0
    reader.close()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            record.add(request(record.allocation))
            time.sleep(0.0005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            history = read(path)
            assert sum(usage.requests for usage in history.usage) == len(history.units)
    finally:
        stop.set()
        writer.join()
    assert record.lost == 0


WORKER = """
import os, sys, time
from pathlib import Path
from ftreg.serving.experiment.record import Record
from tests.serving.experiments import deployment, request
path, count, end = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
record = Record(path, deployment())
for number in range(count):
    one = request(record.allocation, f"user-{number}", id=f"{os.getpid()}-{number}")
    record.add(one)
record.feedback(one.id, 1.0, None).result(10)
record.change_weights({"bot:1": os.getpid()})
if end == "kill":
    os.kill(os.getpid(), 9)
record.close()
"""


def start(path: Path, count: int, end: str) -> subprocess.Popen[bytes]:
    """Start a process that records requests, feedback on the last and a change of weights, and then ends."""
    return subprocess.Popen([sys.executable, "-c", WORKER, str(path), str(count), end], cwd=ROOT, env={**os.environ})


def test_what_was_promised_survives_a_kill(path: Path) -> None:
    """After SIGKILL the feedback, the requests before it and the weights are there, and the next server goes on."""
    process = start(path, 50, "kill")
    assert process.wait(60) == -signal.SIGKILL
    history = read(path)
    assert sum(usage.requests for usage in history.usage) == 50
    assert len(history.scores) == 1
    assert history.allocations[-1].epoch == 2
    record = Record(path, deployment())
    assert record.allocation == history.allocations[-1]
    record.add(request(record.allocation))
    record.close()
    assert count(path) == 51


def test_processes_share_a_record(path: Path) -> None:
    """Four begin it at once; nothing is lost, and each change of the weights has an epoch of its own."""
    processes = [start(path, 100, "close") for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    history = read(path)
    assert sum(usage.requests for usage in history.usage) == 400
    assert len(history.units) == 100  # the same keys came to all
    assert [allocation.epoch for allocation in history.allocations] == [1, 2, 3, 4, 5]


def test_a_unit_counts_once(record: Record, path: Path) -> None:
    """By its first request and, apart from that, by its first feedback; other routes do not count at all."""
    first = record.allocation
    for ref, key, status in ((CONTROL, "u1", 500), (CONTROL, "u1", 200), (CHALLENGER, "u2", 200), (CONTROL, None, 429)):
        record.add(request(first, key, ref=ref, status=status))
    second = record.change_weights({CONTROL: 1})
    moved = request(second, "u1", ref=CHALLENGER)
    again = request(second, "u1", ref=CHALLENGER)
    pinned = request(second, "u3", ref=CONTROL, route="pinned")
    for one in (moved, again, pinned):
        record.add(one)
        record.feedback(one.id, 0.5 if one is moved else 0.9, None).result(SOON)
    history = read(path)
    assert [(unit.ref, unit.epoch, unit.failed) for unit in history.units] == [
        (CONTROL, 1, True), (CHALLENGER, 1, False), (CONTROL, 1, True),
    ]  # fmt: skip
    assert history.scores == ((CHALLENGER, 0.5),)
    usage = {(usage.ref, usage.route): usage for usage in history.usage}
    assert usage[CONTROL, "experiment"].errors == 2
    assert usage[CONTROL, "pinned"].requests == 1
    assert json.loads(history.deployment.model_dump_json())["salt"] == "pepper"


def test_quantiles_are_of_answers(record: Record, path: Path) -> None:
    """By nearest rank, over what was answered; None where nothing was."""
    for number in range(1, 101):
        record.add(request(record.allocation, ref=CONTROL, latency=number / 100, first_token=None))
    record.add(request(record.allocation, ref=CONTROL, latency=99.0, status=500))
    record.add(request(record.allocation, ref=CHALLENGER, latency=99.0, status=500))
    record.close()
    control, challenger = read(path).usage
    assert (control.latency_p50, control.latency_p95, control.first_token_p50) == (0.5, 0.95, None)
    assert challenger.latency_p50 is None
