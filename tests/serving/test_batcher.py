from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftreg.serving.decoding import lane
from ftreg.serving.decoding.batcher import Batcher, Traffic
from ftreg.serving.decoding.codec import Codec
from ftreg.serving.decoding.generation import Generation, Settings
from ftreg.serving.errors import ApiError
from tests.serving.fakes import EchoEngine, PanicError, wait_for

GREEDY = Settings(temperature=0.0)


@contextmanager
def batching(engine: EchoEngine, rows: int = 4, queue: int = 8, traffic: Traffic | None = None) -> Iterator[Batcher]:
    """A batcher of ``engine``."""
    batcher = Batcher(engine, rows=rows, queue=queue, traffic=traffic)
    try:
        yield batcher
    finally:
        engine.gate.set()
        batcher.close()


def begin(
    batcher: Batcher,
    engine: EchoEngine,
    *prompts: str,
    how: Settings = GREEDY,
    most: int = 100,
    shadow: bool = False,
    stream: bool = False,
    timeout: float = 20.0,
) -> Generation:
    """Begin to answer prompts with the engine's first model."""
    digest = next(iter(engine.models))
    generation = Generation(batcher, digest, Codec(engine.models[digest]), how, timeout)
    generation.start([list(prompt.encode()) for prompt in prompts], most, stream=stream, shadow=shadow)
    return generation


async def finish(generation: Generation) -> list[tuple[str, str]]:
    """The answers' texts and why they ended."""
    texts = [""] * len(generation.answers)
    ends = [""] * len(generation.answers)
    try:
        while (event := await generation.next()) is not None:
            texts[event.index] += event.text
            ends[event.index] = event.finish or ends[event.index]
    finally:
        generation.close()
    return list(zip(texts, ends, strict=True))


async def quiet(condition) -> None:
    """Wait, without holding up the event loop."""
    await asyncio.to_thread(wait_for, condition)


def test_answers_and_why_they_end() -> None:
    """An answer ends with the model's end, at its length, or before a stop string, with its tokens counted."""

    async def run() -> None:
        whole = begin(batcher, engine, "hello")
        assert await finish(whole) == [("hello", "stop")]
        assert whole.tokens == 6
        assert whole.first_at is not None
        assert whole._timer.cancelled()
        assert await finish(begin(batcher, engine, "hello", most=3)) == [("hel", "length")]
        how = Settings(temperature=0.0, stop=("lo",))
        assert await finish(begin(batcher, engine, "hello", how=how)) == [("hel", "stop")]

    engine = EchoEngine()
    with batching(engine) as batcher:
        asyncio.run(run())


def test_prompts_are_read_together_and_rows_leave_at_once() -> None:
    """Those that wait are read in one go, and a row is not stepped once its answer has ended."""

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
    """Reading many prompts together is bounded by their tokens, padding included."""

    async def run() -> None:
        engine.gate.clear()
        first = begin(batcher, engine, "x")
        await quiet(lambda: engine.reads)
        others = [begin(batcher, engine, "y" * 8) for _ in range(3)]
        engine.gate.set()
        assert [await finish(each) for each in (first, *others)] == [[("x", "stop")], *[[("y" * 8, "stop")]] * 3]
        assert [len(read) for read in engine.reads] == [1, 2, 1]

    monkeypatch.setattr(lane, "_READ", 20)
    engine = EchoEngine()
    with batching(engine) as batcher:
        asyncio.run(run())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("abé", min_size=1, max_size=12), min_size=1, max_size=8), st.integers(1, 4))
def test_answers_do_not_depend_on_their_neighbours(prompts: Sequence[str], rows: int) -> None:
    """With a seed, an answer is the same alone as among others, in whatever order they join and leave."""

    async def run(*groups: Sequence[tuple[int, str]]) -> list[list[tuple[str, str]]]:
        found = []
        for group in groups:
            begun = [
                begin(batcher, engine, prompt, how=Settings(temperature=1.5, seed=seed), most=9)
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
    """The answers of one request count on from its seed, and the second is the first of the next seed."""

    async def run() -> None:
        both = await finish(begin(batcher, engine, "some prompt", how=Settings(temperature=2.0, seed=5, n=2), most=8))
        next_one = await finish(begin(batcher, engine, "some prompt", how=Settings(temperature=2.0, seed=6), most=8))
        assert both[0] != both[1]
        assert both[1] == next_one[0]

    engine = EchoEngine()
    engine.sharpness = 3.0
    with batching(engine) as batcher:
        asyncio.run(run())


def test_too_many_are_refused_and_none_is_lost() -> None:
    """Beyond the rows and the queue a request is refused with 429, all of it; those before it are answered."""

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
    """An answer that nobody wants leaves the queue or the batch before the next token."""

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
        assert batcher.loads() == ({}, {})

    engine = EchoEngine()
    with batching(engine, rows=1, queue=1) as batcher:
        asyncio.run(run())
    assert [len(read) for read in engine.reads] == [1, 1]
    assert len(engine.steps) == len("after")


def test_a_deadline_ends_the_answer_and_frees_the_row() -> None:
    """After its seconds an answer is an error, even while the engine hangs, and its row is free soon after."""

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
    """The row of an answer whose time is up is free even while whoever asked is busy with something else."""

    async def run() -> None:
        slow = begin(batcher, engine, "x" * 400, timeout=0.1)
        await quiet(lambda: engine.steps)
        await quiet(lambda: batcher.loads() == ({}, {}))
        assert not slow.answers[0].ended
        assert await finish(begin(batcher, engine, "after")) == [("after", "stop")]
        with pytest.raises(ApiError):
            await finish(slow)

    engine = EchoEngine(delay=0.01)
    with batching(engine, rows=1, queue=0) as batcher:
        asyncio.run(run())
    assert len(engine.steps) < 100


@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError()])
def test_a_failing_engine_fails_its_batch_only(error: Exception) -> None:
    """What the engine raises fails those in the batch; those that wait, and those that come, are answered."""

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
    """What is no ``Exception`` ends the batcher: nobody is left waiting, nobody is let in, and it says why."""

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
                await asyncio.wait_for(finish(each), 5)
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
    """An answer that cannot be written does not take its neighbours with it."""

    def broken(logits: object) -> int:
        raise error

    async def run() -> None:
        good = begin(batcher, engine, "good")
        bad = begin(batcher, engine, "also", how=Settings(temperature=0.0))
        bad.answers[0]._sample = broken
        with pytest.raises(ApiError):
            await finish(bad)
        assert await finish(good) == [("good", "stop")]

    engine = EchoEngine()
    engine.delay = 0.01
    with batching(engine) as batcher:
        asyncio.run(run())


def test_shadows_wait_until_no_client_does() -> None:
    """A shadow is not stepped while any client's answer of the deployment is written, and goes on after."""

    async def run() -> None:
        unheard = begin(shadows, other, "shadow" * 4, shadow=True)
        await quiet(lambda: len(other.steps) > 2)
        engine.gate.clear()
        heard = begin(batcher, engine, "live")
        await asyncio.sleep(0.05)
        before = len(other.steps)
        await asyncio.sleep(0.05)
        assert len(other.steps) == before
        engine.gate.set()
        assert await finish(heard) == [("live", "stop")]
        assert await finish(unheard) == [("shadow" * 4, "stop")]

    engine, other, traffic = EchoEngine(), EchoEngine(delay=0.005), Traffic()
    with batching(engine, traffic=traffic) as batcher, batching(other, traffic=traffic) as shadows:
        asyncio.run(run())


def test_a_live_answer_goes_before_a_shadow_of_the_same_engine() -> None:
    """On one engine too, a client's answer is written to its end before a shadow's goes on."""

    async def run() -> None:
        unheard = begin(batcher, engine, "shadow" * 5, shadow=True)
        await quiet(lambda: len(engine.steps) > 2)
        heard = begin(batcher, engine, "live")
        assert await finish(heard) == [("live", "stop")]
        assert not unheard.answers[0].ended
        assert await finish(unheard) == [("shadow" * 5, "stop")]

    engine = EchoEngine(delay=0.005)
    with batching(engine) as batcher:
        asyncio.run(run())


def test_shadows_hold_up_a_client_by_one_pass() -> None:
    """Shadows' prompts are read one at a time, and a client's answer goes before whatever shadows would do next."""

    async def run() -> None:
        engine.gate.clear()
        unheard = [begin(batcher, engine, "shadow", shadow=True) for _ in range(3)]
        await quiet(lambda: engine.reads)
        heard = begin(batcher, engine, "live")
        engine.gate.set()
        assert await finish(heard) == [("live", "stop")]
        assert engine.passes[:2] == ["read", "read"]
        assert [bytes(prompt) for read in engine.reads for _, prompt in read][:2] == [b"shadow", b"live"]
        assert [await finish(each) for each in unheard] == [[("shadow", "stop")]] * 3
        assert [len(read) for read in engine.reads] == [1] * 4

    engine = EchoEngine()
    with batching(engine) as batcher:
        asyncio.run(run())


def test_shadows_without_a_place_are_dropped_and_counted() -> None:
    """Shadows have a small queue of their own, which takes no client's place."""

    async def run() -> None:
        engine.gate.clear()
        kept = [begin(batcher, engine, "s", shadow=True) for _ in range(17)]
        with pytest.raises(ApiError):
            begin(batcher, engine, "s", shadow=True)
        assert batcher.dropped == {"b3:a": 1}
        heard = begin(batcher, engine, "live")
        engine.gate.set()
        assert await finish(heard) == [("live", "stop")]
        for each in kept:
            await finish(each)

    engine = EchoEngine()
    with batching(engine, rows=1, queue=0) as batcher:
        asyncio.run(run())


def test_streams_come_token_by_token() -> None:
    """A stream's events come as the tokens do; others come once, at the end."""

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
    """Closing tells all who wait, closes the engine in its own thread, and lets nobody in any more."""

    async def run() -> None:
        engine.gate.clear()
        begun = [
            begin(batcher, engine, "abc" * 50),
            begin(batcher, engine, "abc"),
            begin(batcher, engine, "s", shadow=True),
        ]
        await quiet(lambda: engine.reads)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.02)
        engine.gate.set()
        await closing
        for each in begun:
            with pytest.raises(ApiError) as ended:
                await finish(each)
            assert ended.value.status == 503
        with pytest.raises(ApiError):
            begin(batcher, engine, "late")

    engine = EchoEngine()
    batcher = Batcher(engine, rows=1, queue=4)
    asyncio.run(run())
    assert engine.closed


def test_closing_shares_the_queue_with_those_who_cancel() -> None:
    """The last look at those who wait is taken under the lock, as ``cancel`` takes its own."""
    looks: list[bool] = []

    class Watched(deque):
        def __iter__(self):
            looks.append(batcher._wake._is_owned())
            return super().__iter__()

        def clear(self):
            looks.append(batcher._wake._is_owned())
            super().clear()

    batcher = Batcher(EchoEngine(), rows=1, queue=4)
    batcher._live.waiting = Watched()
    batcher.close()
    assert looks
    assert all(looks)


def test_nobody_hears_a_closed_event_loop() -> None:
    """An answer whose event loop is gone is written to its end, and the next is answered."""
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
