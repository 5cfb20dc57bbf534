from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftreg.serving.decoding import scheduler
from ftreg.serving.decoding.batcher import Batcher
from ftreg.serving.decoding.generation import Generation
from ftreg.serving.decoding.sampling import SamplingParams
from ftreg.serving.decoding.tokenizer import Tokenizer
from ftreg.serving.decoding.traffic import LiveTraffic
from ftreg.serving.errors import ApiError
from tests.serving.fakes import HANG_SECONDS, EchoEngine, PanicError, wait_for

GREEDY = SamplingParams(temperature=0.0)


@contextmanager
def batching(
    engine: EchoEngine, rows: int = 4, queue: int = 8, traffic: LiveTraffic | None = None
) -> Iterator[Batcher]:
    """A batcher of ``engine``."""
    batcher = Batcher(engine, rows=rows, queue_size=queue, traffic=traffic)
    try:
        yield batcher
    finally:
        engine.gate.set()
        batcher.close()


def begin(
    batcher: Batcher,
    engine: EchoEngine,
    *prompts: str,
    how: SamplingParams = GREEDY,
    most: int = 100,
    shadow: bool = False,
    stream: bool = False,
    timeout: float = HANG_SECONDS,
) -> Generation:
    """Submit prompts to the engine's first model."""
    digest = next(iter(engine.models))
    generation = Generation(batcher, digest, Tokenizer(engine.models[digest]), how, timeout)
    generation.start([list(prompt.encode()) for prompt in prompts], most, stream=stream, shadow=shadow)
    return generation


async def finish(generation: Generation) -> list[tuple[str, str]]:
    """Wait for all completions; return their texts and why they ended."""
    texts = [""] * len(generation.completions)
    ends = [""] * len(generation.completions)
    try:
        while (event := await generation.next()) is not None:
            texts[event.index] += event.text
            ends[event.index] = event.finish or ends[event.index]
    finally:
        generation.close()
    return list(zip(texts, ends, strict=True))


async def quiet(condition) -> None:
    """Wait for a condition without blocking the event loop."""
    await asyncio.to_thread(wait_for, condition)


def test_answers_and_why_they_end() -> None:
    """A completion ends with the end token, at its length, or before a stop string, and its tokens are counted."""

    async def run() -> None:
        whole = begin(batcher, engine, "hello")
        assert await finish(whole) == [("hello", "stop")]
        assert whole.tokens == 6
        assert whole.first_token_at is not None
        assert await finish(begin(batcher, engine, "hello", most=3)) == [("hel", "length")]
        how = SamplingParams(temperature=0.0, stop=("lo",))
        assert await finish(begin(batcher, engine, "hello", how=how)) == [("hel", "stop")]

    engine = EchoEngine()
    with batching(engine) as batcher:
        asyncio.run(run())


def test_prompts_are_read_together_and_rows_leave_at_once() -> None:
    """Queued prompts are read in one pass, and a row is not stepped once its completion has ended."""

    async def run() -> None:
        engine.gate.clear()
        first = begin(batcher, engine, "x")  # holds the engine while the others come
        await quiet(lambda: engine.reads)
        others = [begin(batcher, engine, prompt) for prompt in ("ab", "abcd", "a")]
        engine.gate.set()
        assert [await finish(each) for each in (first, *others)] == [
            [(text, "stop")] for text in ("x", "ab", "abcd", "a")
        ]
        assert [len(read) for read in engine.reads] == [1, 3]
        assert [len(step) for step in engine.steps[1:]] == [3, 2, 1, 1]

    engine = EchoEngine()
    with batching(engine) as batcher:
        asyncio.run(run())


def test_long_prompts_are_not_all_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompts that are read in one pass are limited by their tokens, padding included."""

    async def run() -> None:
        engine.gate.clear()
        first = begin(batcher, engine, "x")
        await quiet(lambda: engine.reads)
        others = [begin(batcher, engine, "y" * 8) for _ in range(3)]
        engine.gate.set()
        assert [await finish(each) for each in (first, *others)] == [[("x", "stop")], *[[("y" * 8, "stop")]] * 3]
        assert [len(read) for read in engine.reads] == [1, 2, 1]

    monkeypatch.setattr(scheduler, "_PREFILL_TOKENS", 20)
    engine = EchoEngine()
    with batching(engine) as batcher:
        asyncio.run(run())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("abé", min_size=1, max_size=12), min_size=1, max_size=8), st.integers(1, 4))
def test_answers_do_not_depend_on_their_neighbours(prompts: Sequence[str], rows: int) -> None:
    """With a seed, a completion is the same alone and among others, in whatever order they join and leave."""

    async def run(*groups: Sequence[tuple[int, str]]) -> list[list[tuple[str, str]]]:
        found = []
        for group in groups:
            begun = [
                begin(batcher, engine, prompt, how=SamplingParams(temperature=1.5, seed=seed), most=9)
                for seed, prompt in group
            ]
            found += [await finish(each) for each in begun]
        return found

    engine = EchoEngine()
    engine.sharpness = 5.0
    with batching(engine, rows=rows, queue=20) as batcher:
        numbered = list(enumerate(prompts))
        assert asyncio.run(run(*([each] for each in numbered))) == asyncio.run(run(numbered))
    assert len(engine.threads) == 1


def test_answers_to_one_prompt_differ() -> None:
    """Each completion of a request uses the seed after the previous one's."""

    async def run() -> None:
        both = await finish(
            begin(batcher, engine, "some prompt", how=SamplingParams(temperature=2.0, seed=5, n=2), most=8)
        )
        next_one = await finish(
            begin(batcher, engine, "some prompt", how=SamplingParams(temperature=2.0, seed=6), most=8)
        )
        assert both[0] != both[1]
        assert both[1] == next_one[0]

    engine = EchoEngine()
    engine.sharpness = 3.0
    with batching(engine) as batcher:
        asyncio.run(run())


def test_too_many_are_refused_and_none_is_lost() -> None:
    """A request that does not fit into batch and queue is refused as a whole with 429; earlier ones are answered."""

    async def run() -> None:
        engine.gate.clear()
        taken = [begin(batcher, engine, "abc") for _ in range(5)]
        with pytest.raises(ApiError) as refused:
            begin(batcher, engine, "abc")
        assert refused.value.status == 429
        assert "Retry-After" in refused.value.headers
        engine.gate.set()
        assert [await finish(each) for each in taken] == [[("abc", "stop")]] * 5
        with pytest.raises(ApiError):
            begin(batcher, engine, *["abc"] * 6)
        assert await finish(begin(batcher, engine, *["abc"] * 5)) == [("abc", "stop")] * 5
        assert max(len(step) for step in engine.steps) == 2

    engine = EchoEngine()
    with batching(engine, rows=2, queue=3) as batcher:
        asyncio.run(run())


def test_the_cancelled_free_their_places() -> None:
    """A cancelled completion leaves the queue at once, and the batch before its next token."""

    async def run() -> None:
        engine.gate.clear()
        writing = begin(batcher, engine, "abc" * 30)
        await quiet(lambda: engine.reads)
        waiting = begin(batcher, engine, "abc")
        assert batcher.loads() == ({"b3:a": 1}, {"b3:a": 1})
        waiting.close()
        assert batcher.loads() == ({}, {"b3:a": 1})
        writing.close()
        engine.gate.set()
        assert await finish(begin(batcher, engine, "after")) == [("after", "stop")]
        await quiet(lambda: batcher.loads() == ({}, {}))

    engine = EchoEngine()
    with batching(engine, rows=1, queue=1) as batcher:
        asyncio.run(run())
    assert [len(read) for read in engine.reads] == [1, 1]
    assert len(engine.steps) == len("after")


def test_a_deadline_ends_the_answer_and_frees_the_row() -> None:
    """A request times out even while the engine hangs, and its row is free afterwards."""

    async def run() -> None:
        engine.gate.clear()
        slow = begin(batcher, engine, "abc", timeout=0.05)
        with pytest.raises(ApiError) as late:
            await finish(slow)
        assert late.value.status == 408
        engine.gate.set()
        assert await finish(begin(batcher, engine, "after")) == [("after", "stop")]

    engine = EchoEngine()
    with batching(engine, rows=1, queue=1) as batcher:
        asyncio.run(run())


def test_a_deadline_frees_the_row_though_nobody_listens() -> None:
    """The row of a request that timed out is freed even if nobody reads its deltas."""

    async def run() -> None:
        slow = begin(batcher, engine, "x" * 400, timeout=0.1)
        await quiet(lambda: engine.steps)
        await quiet(lambda: batcher.loads() == ({}, {}))
        assert not slow.completions[0].ended
        assert await finish(begin(batcher, engine, "after")) == [("after", "stop")]
        with pytest.raises(ApiError):
            await finish(slow)

    engine = EchoEngine(delay=0.01)
    with batching(engine, rows=1, queue=0) as batcher:
        asyncio.run(run())
    assert len(engine.steps) < 400


@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError()])
def test_a_failing_engine_fails_its_batch_only(error: Exception) -> None:
    """An exception of the engine fails the batch; queued and later completions are answered."""

    async def run() -> None:
        engine.gate.clear()
        members = begin(batcher, engine, "one", "two")
        await quiet(lambda: engine.reads)
        waiting = begin(batcher, engine, "three")
        engine.fail = error
        engine.gate.set()
        with pytest.raises(ApiError) as failed:
            await finish(members)
        assert failed.value.status == 500
        assert "broken" not in failed.value.message
        assert await finish(waiting) == [("three", "stop")]
        assert await finish(begin(batcher, engine, "four")) == [("four", "stop")]

    engine = EchoEngine()
    with batching(engine, rows=2) as batcher:
        asyncio.run(run())


def test_an_engine_that_breaks_down_fails_all_answers() -> None:
    """A panic ends the batcher: all completions fail, new ones are refused, and ``error`` says why."""

    async def run() -> None:
        engine.gate.clear()
        begun = [
            begin(batcher, engine, "member"),
            begin(batcher, engine, "waiting"),
            begin(batcher, engine, "s", shadow=True),
        ]
        await quiet(lambda: engine.reads)
        engine.fail = PanicError("attempt to add with overflow")
        engine.gate.set()
        for each in begun:
            with pytest.raises(ApiError) as failed:
                await finish(each)
            assert failed.value.status == 500
        with pytest.raises(ApiError) as refused:
            begin(batcher, engine, "late")
        assert refused.value.status == 503

    engine = EchoEngine()
    with batching(engine, rows=1) as batcher:
        asyncio.run(run())
        assert batcher.error == "PanicError: attempt to add with overflow"
    assert engine.closed


@pytest.mark.parametrize("error", [ZeroDivisionError(), PanicError()])
def test_logits_that_are_no_numbers_fail_one_answer(error: BaseException) -> None:
    """A completion that cannot be sampled fails alone."""

    def broken(logits: object) -> int:
        raise error

    async def run() -> None:
        engine.gate.clear()
        good = begin(batcher, engine, "good")
        bad = begin(batcher, engine, "also", how=SamplingParams(temperature=0.0))
        bad.completions[0].advance = broken
        engine.gate.set()
        with pytest.raises(ApiError):
            await finish(bad)
        assert await finish(good) == [("good", "stop")]

    engine = EchoEngine()
    with batching(engine) as batcher:
        asyncio.run(run())


def test_shadows_wait_until_no_client_does() -> None:
    """A shadow makes no step while any client of the deployment is waiting, and continues afterwards."""

    async def run() -> None:
        shadow = begin(shadows, other, "shadow" * 4, shadow=True)
        await quiet(lambda: len(other.steps) > 2)  # it is held within its last step
        live = begin(batcher, engine, "live", stream=True)
        await live.next()
        other.gate.set()
        assert await finish(live) == [("ive", "stop")]
        assert await finish(shadow) == [("shadow" * 4, "stop")]
        first, last = passes.index("live read"), len(passes) - passes[::-1].index("live step")
        assert "shadow step" not in passes[first:last]

    passes: list[str] = []
    engine, other, traffic = EchoEngine(delay=0.01), EchoEngine(), LiveTraffic()
    engine.name, other.name, other.hold_after = "live ", "shadow ", 3
    engine.passes = other.passes = passes
    with batching(engine, traffic=traffic) as batcher, batching(other, traffic=traffic) as shadows:
        asyncio.run(run())


def test_a_live_answer_goes_before_a_shadow_of_the_same_engine() -> None:
    """On one engine too, a client's completion is finished before a shadow's continues."""

    async def run() -> None:
        shadow = begin(batcher, engine, "shadow" * 5, shadow=True)
        await quiet(lambda: len(engine.steps) > 2)  # it is held within its last step
        live = begin(batcher, engine, "live")
        engine.hold_after = 1 + 1 + len("live")  # the shadow's step, and the client's prompt and tokens
        engine.gate.set()
        assert await finish(live) == [("live", "stop")]
        assert not shadow.completions[0].ended
        engine.gate.set()
        assert await finish(shadow) == [("shadow" * 5, "stop")]

    engine = EchoEngine()
    engine.hold_after = 3
    with batching(engine) as batcher:
        asyncio.run(run())


def test_shadows_hold_up_a_client_by_one_pass() -> None:
    """Shadows' prompts are read one at a time, and a client's completion comes before the shadows' next pass."""

    async def run() -> None:
        engine.gate.clear()
        shadow = [begin(batcher, engine, "shadow", shadow=True) for _ in range(3)]
        await quiet(lambda: engine.reads)
        live = begin(batcher, engine, "live")
        engine.gate.set()
        assert await finish(live) == [("live", "stop")]
        assert engine.passes[:2] == ["read", "read"]
        assert [bytes(prompt) for read in engine.reads for _, prompt in read][:2] == [b"shadow", b"live"]
        assert [await finish(each) for each in shadow] == [[("shadow", "stop")]] * 3
        assert [len(read) for read in engine.reads] == [1] * 4

    engine = EchoEngine()
    with batching(engine) as batcher:
        asyncio.run(run())


def test_shadows_without_a_place_are_dropped_and_counted() -> None:
    """Shadows have a small queue of their own, so they never take a client's place."""

    async def run() -> None:
        engine.gate.clear()
        kept = [begin(batcher, engine, "s", shadow=True) for _ in range(17)]
        with pytest.raises(ApiError):
            begin(batcher, engine, "s", shadow=True)
        assert batcher.dropped == {"b3:a": 1}
        live = begin(batcher, engine, "live")
        engine.gate.set()
        assert await finish(live) == [("live", "stop")]
        for each in kept:
            await finish(each)

    engine = EchoEngine()
    with batching(engine, rows=1, queue=0) as batcher:
        asyncio.run(run())


def test_streams_come_token_by_token() -> None:
    """A stream delivers each token; otherwise there is one delta, at the end."""

    async def run() -> None:
        stream = begin(batcher, engine, "aé", stream=True)
        events = [await stream.next() for _ in range(3)]
        assert [(event.text, event.finish) for event in events] == [("a", None), ("é", None), ("", "stop")]
        whole = begin(batcher, engine, "aé")
        assert (await whole.next()).text == "aé"
        assert await whole.next() is None

    engine = EchoEngine()
    with batching(engine) as batcher:
        asyncio.run(run())


def test_closing_ends_all_answers_and_the_engine() -> None:
    """Closing fails all completions, closes the engine in its thread, and refuses new completions."""

    async def run() -> None:
        engine.gate.clear()
        begun = [
            begin(batcher, engine, "abc" * 50),
            begin(batcher, engine, "abc"),
            begin(batcher, engine, "s", shadow=True),
        ]
        await quiet(lambda: engine.reads)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await quiet(is_closing)
        engine.gate.set()
        await closing
        for each in begun:
            with pytest.raises(ApiError) as ended:
                await finish(each)
            assert ended.value.status == 503
        with pytest.raises(ApiError):
            begin(batcher, engine, "late")

    def is_closing() -> bool:
        try:
            batcher.submit([])
        except ApiError:
            return True
        return False

    engine = EchoEngine()
    batcher = Batcher(engine, rows=1, queue_size=4)
    asyncio.run(run())
    assert engine.closed


def test_requests_that_are_cancelled_while_the_batcher_closes_hang_nowhere() -> None:
    """Whatever the order in which closing and cancelling take the queue, both return, and the queue is empty."""

    async def run() -> None:
        engine.gate.clear()
        begun = [begin(batcher, engine, "abc") for _ in range(50)]
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        for each in begun:
            each.close()
        engine.gate.set()
        await closing
        assert batcher.loads() == ({}, {})

    for _ in range(5):
        engine = EchoEngine()
        batcher = Batcher(engine, rows=4, queue_size=50)
        asyncio.run(run())
        assert engine.closed


def test_a_closed_event_loop_stops_nothing() -> None:
    """A completion whose event loop is closed is dropped, and the next one is answered."""
    engine = EchoEngine()
    with batching(engine) as batcher:

        async def forget() -> None:
            engine.gate.clear()
            begin(batcher, engine, "gone")

        asyncio.run(forget())
        engine.gate.set()

        async def run() -> None:
            assert await finish(begin(batcher, engine, "here")) == [("here", "stop")]

        asyncio.run(run())
