"""The record survives restarts, kills, full disks and several processes, and never blocks a request."""

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

from ftreg.core import database
from ftreg.core.errors import DiskFull, FtregError, InputError, UnknownName
from ftreg.serving.experiment.database import MIGRATIONS
from ftreg.serving.experiment.history import read
from ftreg.serving.experiment.record import ExperimentRecord
from ftreg.serving.experiment.routing import Allocation
from ftreg.serving.experiment.store import RecordStore, check_deployable
from tests.serving.experiments import CHALLENGER, CONTROL, deployment, request, variant
from tests.serving.fakes import HANG_SECONDS, wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Path of a record that does not exist yet."""
    return tmp_path / "state" / "experiment.db"


@pytest.fixture
def record(path: Path) -> Iterator[ExperimentRecord]:
    """A record of two variants."""
    opened = ExperimentRecord(path, deployment())
    yield opened
    opened.close()


def left_open(path: Path) -> list[str]:
    """Return the record's files that this process has open, and the names of its writer threads."""
    files = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            files.append(str(descriptor.readlink()))
    writers = [thread.name for thread in threading.enumerate() if thread.name == "ftreg-record"]
    return [file for file in files if file.startswith(str(path.parent))] + writers


def count(path: Path, table: str = "requests") -> int:
    """Count the rows of a table, on a connection of its own."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    finally:
        connection.close()


class Disk:
    """Limits how many pages SQLite may use, for the connections that were opened with ``connect``."""

    def __init__(self) -> None:
        self._connections: list[sqlite3.Connection] = []

    def connect(self, *arguments: object, **options: object) -> sqlite3.Connection:
        """Open a database as ftreg does, and remember the connection."""
        opened = database.connect(*arguments, **options)
        self._connections.append(opened)
        return opened

    def set_full(self, full: bool) -> None:
        """Let SQLite find no room for further pages, as on a full disk, or find room again."""
        for connection in self._connections:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages if full else 1 << 30}")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk of the records that are opened after this."""
    disk = Disk()
    monkeypatch.setattr("ftreg.serving.experiment.database.connect", disk.connect)
    return disk


def test_requests_are_on_disk_soon(record: ExperimentRecord, path: Path) -> None:
    """Requests are written without further calls, as they were given, except that the key is hashed."""
    given = request(record.allocation, "anna@example.org", error="timeout", status=408, first_token=None, finish=None)
    record.add(given)
    wait_for(lambda: count(path))
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    row = dict(connection.execute("SELECT * FROM requests").fetchone())
    connection.close()
    stored = {name: row[name] for name in vars(given) if name != "unit"}
    assert stored == {name: value for name, value in vars(given).items() if name != "unit"}
    assert row["experiment"] == deployment().id
    everything = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"anna@example.org" not in everything


def test_adding_waits_for_nothing(record: ExperimentRecord, path: Path) -> None:
    """Adding returns even while another process holds the lock; everything is written afterwards."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(1000):
        record.add(request(record.allocation))
    assert count(path) == 0
    other.execute("ROLLBACK")
    other.close()
    record.close()
    assert count(path) == 1000


def test_an_id_is_recorded_once_for_each_variant(record: ExperimentRecord, path: Path) -> None:
    """A repeated id neither replaces the request nor stops the writer; a shadow's answer has the request's id."""
    first = request(record.allocation, ref=CONTROL, id="same")
    record.add(first)
    record.add(request(record.allocation, ref=CONTROL, id="same", latency=9.0))
    record.add(request(record.allocation, ref="bot:3", id="same", route="shadow"))
    record.add(request(record.allocation))
    record.feedback("same", 1.0, None).result(HANG_SECONDS)
    record.close()
    assert count(path) == 3
    usage = {usage.route: usage for usage in read(path).usage if usage.ref in (CONTROL, "bot:3")}
    assert usage["experiment"].latency_p50 == 0.5
    assert (usage["experiment"].feedback, usage["shadow"].feedback) == (1, 0)


def test_feedback_is_durable_when_it_is_done(record: ExperimentRecord, path: Path) -> None:
    """New feedback replaces earlier feedback on the same request and keeps its place; any text is accepted."""
    requests = [request(record.allocation, ref=CONTROL) for _ in range(2)]
    for one in requests:
        record.add(one)
        record.feedback(one.id, 0.25, "so-so \ud800 ✓").result(HANG_SECONDS)
    assert count(path, "feedback") == 2
    record.feedback(requests[0].id, 1.0, None).result(HANG_SECONDS)
    assert count(path, "feedback") == 2
    assert read(path).scores == ((CONTROL, 1.0), (CONTROL, 0.25))


def test_feedback_on_an_unknown_request_fails(record: ExperimentRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feedback fails if its request does not arrive in time, or is a shadow's, whose answer nobody has seen."""
    monkeypatch.setattr("ftreg.serving.experiment.record._FEEDBACK_SECONDS", 0.05)
    record.add(request(record.allocation, id="unseen", route="shadow"))
    for name in ("nothing", "unseen", "\ud800"):
        with pytest.raises(UnknownName, match="request"):
            record.feedback(name, 1.0, None).result(HANG_SECONDS)


def test_feedback_may_overtake_its_request(
    path: Path, record: ExperimentRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feedback is stored although another process writes its request only after the first attempt."""
    tried = threading.Event()
    store = RecordStore.feedback

    def feedback(*arguments: object) -> None:
        try:
            store(*arguments)
        finally:
            tried.set()

    monkeypatch.setattr(RecordStore, "feedback", feedback)
    monkeypatch.setattr("ftreg.serving.experiment.record._FEEDBACK_SECONDS", HANG_SECONDS)
    other = ExperimentRecord(path, deployment())
    one = request(record.allocation)
    future = other.feedback(one.id, 1.0, None)
    assert tried.wait(HANG_SECONDS)
    record.add(one)
    assert future.result(HANG_SECONDS) is None
    other.close()


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_score_is_from_0_to_1(record: ExperimentRecord, score: float) -> None:
    """A score outside of 0 to 1 is refused at once."""
    with pytest.raises(InputError):
        record.feedback("any", score, None)


def test_weights_change_durably(record: ExperimentRecord, path: Path) -> None:
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
    again = ExperimentRecord(path, deployment())
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
def test_weights_that_cannot_be_are_refused(
    record: ExperimentRecord, weights: dict[str, float], error: type[Exception]
) -> None:
    """Invalid weights are refused and change nothing, and the record continues to work."""
    before = record.allocation
    with pytest.raises(error):
        record.change_weights(weights)
    assert record.allocation == before
    assert record.change_weights({CONTROL: 1}).epoch == 2


def test_processes_see_each_others_weights(record: ExperimentRecord, path: Path) -> None:
    """A change of weights by one process reaches the others, and epochs are counted over all processes."""
    other = ExperimentRecord(path, deployment())
    record.change_weights({CHALLENGER: 30})
    wait_for(lambda: other.allocation.epoch == 2)
    assert other.allocation == record.allocation
    assert other.change_weights({CHALLENGER: 40}).epoch == 3
    other.close()


def test_a_ramp_that_is_taken_back_returns_the_users(record: ExperimentRecord) -> None:
    """Weights that go up and back down, in as many steps, end where they began: the earlier allocations count."""
    start = record.allocation
    steps = [record.change_weights({CONTROL: control, CHALLENGER: 100 - control}) for control in (50, 10, 65, 80)]
    assert steps[-1].runs == start.runs
    assert steps[1].change(start.weights).runs != start.runs


def test_another_deployment_is_another_experiment(record: ExperimentRecord, path: Path) -> None:
    """Other versions start a new experiment in the same file; reading returns the last served one, or any by its id."""
    record.add(request(record.allocation))
    record.close()
    other = deployment(variant(CONTROL), variant("bot:3"))
    ExperimentRecord(path, other).close()
    assert read(path).experiment == other.id
    assert not read(path).usage
    assert read(path, deployment().id).usage
    ExperimentRecord(path, deployment()).close()
    assert read(path).experiment == deployment().id
    for nothing in ("nothing", "", "%", "_"):
        with pytest.raises(UnknownName):
            read(path, nothing)


def test_an_experiment_is_chosen_by_id_or_name(record: ExperimentRecord, path: Path) -> None:
    """An experiment is found by id, unique id prefix or name; its history lists the others with their requests."""
    record.add(request(record.allocation))
    record.close()
    tone, again = deployment(experiment="tone"), deployment(salt="other")
    for other in (tone, again):
        ExperimentRecord(path, other).close()
    assert read(path).experiment == again.id
    assert read(path, "tone").experiment == read(path, tone.id[:10]).experiment == tone.id
    with pytest.raises(InputError, match="several") as refused:
        read(path, "answers")
    assert deployment().id in str(refused.value)
    assert again.id in str(refused.value)
    assert [(one.id, one.name, one.requests) for one in read(path, "tone").others] == [
        (again.id, "answers", 0), (deployment().id, "answers", 1),
    ]  # fmt: skip


def test_the_newest_deployment_is_read(record: ExperimentRecord, path: Path) -> None:
    """An experiment whose shadow and alias have changed continues, with the newest deployment."""
    ExperimentRecord(path, deployment(shadows=(variant("bot:3"),), alias="stable")).close()
    assert read(path).deployment.alias == "stable"


def test_the_same_versions_under_other_names_are_refused(record: ExperimentRecord, path: Path) -> None:
    """The same versions under other references are refused, since their earlier requests would not be found."""
    renamed = deployment(variant("copy:1", digest=f"b3:{CONTROL}"), variant(CHALLENGER))
    assert renamed.id == deployment().id
    record.close()
    for take_up in (ExperimentRecord, check_deployable):
        with pytest.raises(InputError, match="copy:1"):
            take_up(path, renamed)
        assert not left_open(path)
    check_deployable(path, deployment())
    check_deployable(path, deployment(salt="other"))
    assert [one.id for one in read(path).others] == []


def test_a_deployment_can_be_checked_where_there_is_no_record(path: Path) -> None:
    """Without a record a deployment is accepted and no file is made; a file that is not a record is refused."""
    check_deployable(path, deployment())
    assert not path.parent.exists()
    path.parent.mkdir()
    path.touch()
    check_deployable(path, deployment())
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(FtregError, match="damaged"):
        check_deployable(path, deployment())


def test_other_weights_are_warned_of(record: ExperimentRecord, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the shares differ, one warning names both weights and the command that changes them."""
    record.close()
    with caplog.at_level(logging.WARNING, "ftreg.serving"):
        ExperimentRecord(path, deployment(variant(CONTROL, 8), variant(CHALLENGER, 2))).close()
        assert not caplog.records
        ExperimentRecord(path, deployment(variant(CONTROL, 50), variant(CHALLENGER, 12.5))).close()
        assert not caplog.records
        again = ExperimentRecord(path, deployment(variant(CONTROL, 50), variant(CHALLENGER, 50.25)))
    again.close()
    assert again.allocation.weights == {CONTROL: 80, CHALLENGER: 20}
    [warning] = caplog.messages
    assert "bot:1=80 bot:2=20" in warning
    assert warning.endswith("ftreg experiment set support bot:1=50 bot:2=50.25")


def test_an_empty_file_is_begun_anew(path: Path) -> None:
    """A file without tables, as a server leaves it that is killed while it starts, counts as no record."""
    path.parent.mkdir()
    path.touch()
    with pytest.raises(UnknownName, match="no record"):
        read(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size
    with pytest.raises(UnknownName, match="no record"):
        read(path)
    ExperimentRecord(path, deployment()).close()
    assert read(path).experiment == deployment().id


def test_only_its_owner_reads_it(record: ExperimentRecord, path: Path) -> None:
    """The record and the files beside it can be read by their owner only, whatever the umask."""
    record.add(request(record.allocation))
    wait_for(lambda: count(path))
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["experiment.db", "experiment.db-wal", "experiment.db-shm"], "0o600")


def test_a_newer_record_is_refused(path: Path) -> None:
    """A record of a newer ftreg is neither written nor read, and the error says what to do."""
    ExperimentRecord(path, deployment()).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    for action in (lambda: ExperimentRecord(path, deployment()), lambda: read(path)):
        with pytest.raises(FtregError, match="Upgrade"):
            action()


def test_what_is_no_record_is_refused(path: Path, tmp_path: Path) -> None:
    """Damaged files, other programs' databases, folders and impossible paths are one error each, and unchanged."""
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (id)")
    connection.close()
    before = [path.read_bytes(), other.read_bytes()]
    (tmp_path / "folder").mkdir()
    for bad in (path, other, tmp_path / "folder", path / "inside"):
        with pytest.raises(FtregError) as writing:
            ExperimentRecord(bad, deployment())
        with pytest.raises(FtregError) as reading:
            read(bad)
        assert str(bad) in str(writing.value)
        assert str(bad) in str(reading.value)
        assert not left_open(path)
    assert [path.read_bytes(), other.read_bytes()] == before
    with pytest.raises(InputError, match="no record"):
        read(tmp_path / "missing.db")


def test_damage_is_said_to_be_damage(path: Path) -> None:
    """A record whose pages were overwritten is reported as damaged."""
    record = ExperimentRecord(path, deployment())
    for _ in range(100):
        record.add(request(record.allocation))
    record.close()
    content = bytearray(path.read_bytes())
    content[4096 : len(content)] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(FtregError, match="damaged"):
        ExperimentRecord(path, deployment())
    assert not left_open(path)


def test_a_record_that_fails_late_leaves_nothing_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the last step of opening fails, no file and no thread stays open."""

    def fail(_: object) -> None:
        raise sqlite3.DatabaseError("malformed")

    monkeypatch.setattr("ftreg.serving.experiment.store.RecordStore.allocation", fail)
    with pytest.raises(sqlite3.DatabaseError):
        ExperimentRecord(path, deployment())
    assert not left_open(path)


def test_a_full_disk_stops_nothing(
    disk: Disk, record: ExperimentRecord, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the disk is full, requests wait in memory and calls fail; it is logged once, and nothing is lost."""
    disk.set_full(True)
    with caplog.at_level(logging.WARNING, "ftreg.serving"):
        for _ in range(500):
            record.add(request(record.allocation))
        with pytest.raises(DiskFull):
            record.change_weights({CONTROL: 1})
        with pytest.raises(DiskFull):
            record.feedback("any", 1.0, None).result(HANG_SECONDS)
        assert count(path) == 0
        disk.set_full(False)
        record.add(request(record.allocation))
        wait_for(lambda: count(path) == 501)
        wait_for(lambda: len(caplog.records) >= 2)  # logged after the commit, by the writer's thread
    assert record.lost == 0
    assert [entry.levelname for entry in caplog.records] == ["ERROR", "WARNING"]


def test_what_cannot_be_kept_is_counted(
    disk: Disk, record: ExperimentRecord, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that wait beyond the limit, or when the record closes, are counted as lost."""
    monkeypatch.setattr("ftreg.serving.experiment.writer._MAX_WAITING", 200)
    disk.set_full(True)
    for _ in range(500):
        record.add(request(record.allocation))
    wait_for(lambda: record.lost >= 300)
    assert record.lost == 300
    record.close()
    record.add(request(record.allocation))
    assert record.lost == 501
    assert count(path) == 0


def test_a_defect_stops_nothing(record: ExperimentRecord, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A request that cannot be stored because of a defect is counted as lost, and the next one is stored."""
    record.add(request(record.allocation, finish=object()))
    wait_for(lambda: record.lost == 1)
    record.add(request(record.allocation))
    wait_for(lambda: count(path) == 1)


def test_a_closed_record_says_so(record: ExperimentRecord) -> None:
    """Calls on a closed record fail at once; closing twice is allowed."""
    record.close()
    record.close()
    with pytest.raises(FtregError, match="closed"):
        record.change_weights({CONTROL: 1})
    with pytest.raises(FtregError, match="closed"):
        record.feedback("any", 1.0, None)


def test_it_can_be_read_while_it_is_written(record: ExperimentRecord, path: Path) -> None:
    """Readers see one consistent state and do not block the writer, however long they read."""
    one = request(record.allocation)
    record.add(one)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM feedback").fetchone()[0] == 0
    record.feedback(one.id, 1.0, None).result(HANG_SECONDS)
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
from ftreg.serving.experiment.record import ExperimentRecord
from tests.serving.experiments import deployment, request
path, count, end = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
record = ExperimentRecord(path, deployment())
for number in range(count):
    one = request(record.allocation, f"user-{number}", id=f"{os.getpid()}-{number}")
    record.add(one)
record.feedback(one.id, 1.0, None).result(120)
record.change_weights({"bot:1": os.getpid()})
if end == "kill":
    os.kill(os.getpid(), 9)
record.close()
"""


def start(path: Path, count: int, end: str) -> subprocess.Popen[bytes]:
    """Start a process that records requests, feedback on the last one and a change of weights, and then ends."""
    return subprocess.Popen([sys.executable, "-c", WORKER, str(path), str(count), end], cwd=ROOT, env={**os.environ})


def test_what_was_promised_survives_a_kill(path: Path) -> None:
    """After SIGKILL, feedback, the requests before it and the weights are there, and the next server continues."""
    process = start(path, 50, "kill")
    assert process.wait(HANG_SECONDS) == -signal.SIGKILL
    history = read(path)
    assert sum(usage.requests for usage in history.usage) == 50
    assert len(history.scores) == 1
    assert history.allocations[-1].epoch == 2
    record = ExperimentRecord(path, deployment())
    assert record.allocation == history.allocations[-1]
    record.add(request(record.allocation))
    record.close()
    assert count(path) == 51


def test_processes_share_a_record(path: Path) -> None:
    """Four processes create the record at once: nothing is lost, and each change of weights has its own epoch."""
    processes = [start(path, 100, "close") for _ in range(4)]
    assert [process.wait(HANG_SECONDS) for process in processes] == [0] * 4
    history = read(path)
    assert sum(usage.requests for usage in history.usage) == 400
    assert len(history.units) == 100  # the same keys came to all
    assert [allocation.epoch for allocation in history.allocations] == [1, 2, 3, 4, 5]


def test_a_unit_counts_once(record: ExperimentRecord, path: Path) -> None:
    """A unit counts once, by its first request and by its first feedback; other routes do not count."""
    first = record.allocation
    for ref, key, status in ((CONTROL, "u1", 500), (CONTROL, "u1", 200), (CHALLENGER, "u2", 200), (CONTROL, None, 429)):
        record.add(request(first, key, ref=ref, status=status))
    second = record.change_weights({CONTROL: 1})
    moved = request(second, "u1", ref=CHALLENGER)
    again = request(second, "u1", ref=CHALLENGER)
    pinned = request(second, "u3", ref=CONTROL, route="pinned")
    for one in (moved, again, pinned):
        record.add(one)
        record.feedback(one.id, 0.5 if one is moved else 0.9, None).result(HANG_SECONDS)
    history = read(path)
    assert [(unit.ref, unit.epoch, unit.failed) for unit in history.units] == [
        (CONTROL, 1, True), (CHALLENGER, 1, False), (CONTROL, 1, True),
    ]  # fmt: skip
    assert history.scores == ((CHALLENGER, 0.5),)
    usage = {(usage.ref, usage.route): usage for usage in history.usage}
    assert usage[CONTROL, "experiment"].errors == 2
    assert usage[CONTROL, "pinned"].requests == 1
    assert json.loads(history.deployment.model_dump_json())["salt"] == "pepper"


def test_quantiles_are_of_answers(record: ExperimentRecord, path: Path) -> None:
    """Quantiles are computed by nearest rank over answered requests; None if there are none."""
    for number in range(1, 101):
        record.add(request(record.allocation, ref=CONTROL, latency=number / 100, first_token=None))
    record.add(request(record.allocation, ref=CONTROL, latency=99.0, status=500))
    record.add(request(record.allocation, ref=CHALLENGER, latency=99.0, status=500))
    record.close()
    control, challenger = read(path).usage
    assert (control.latency_p50, control.latency_p95, control.first_token_p50) == (0.5, 0.95, None)
    assert challenger.latency_p50 is None
