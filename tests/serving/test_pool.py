from __future__ import annotations

import asyncio
import threading

import pytest

from ftreg.core.errors import CorruptRegistry
from ftreg.serving.decoding.generation import Generation
from ftreg.serving.decoding.pool import ModelPool
from ftreg.serving.decoding.sampling import SamplingParams
from ftreg.serving.errors import ApiError
from tests.serving import fakes
from tests.serving.fakes import ENGINES, HANG_SECONDS, PanicError, deployment, digest, open_source, variant, wait_for


def loaded(pool: ModelPool) -> ModelPool:
    """Start a pool and wait until its models are loaded or have failed to load."""
    pool.start()
    wait_for(lambda: pool.ready or pool.error)
    return pool


def test_every_version_is_loaded_with_a_batcher() -> None:
    """Each engine loads its versions; versions that share an engine share a batcher, shadows included."""
    pool = ModelPool(
        deployment(
            variant("alpha", "a", serve="load_together"),
            variant("beta", "b", serve="load_together"),
            variant("gamma", "c"),
            shadows=[variant("delta", "d", serve="load_together")],
        ),
        open_source,
    )
    assert not pool.ready
    loaded(pool)
    assert pool.ready
    assert pool.batcher("alpha:1") is pool.batcher("beta:1") is pool.batcher("delta:1")
    assert pool.batcher("gamma:1") is not pool.batcher("alpha:1")
    assert len(pool.batchers) == 2
    assert pool.tokenizer("beta:1").context == ENGINES[digest("b")].models[digest("b")].context
    assert pool.source("beta:1").digest == digest("b")
    pool.close()
    assert not pool.ready
    assert all(ENGINES[digest(letter)].closed for letter in "abcd")


def test_one_version_under_two_names_is_loaded_once() -> None:
    """Two references to one digest share its model."""
    pool = loaded(ModelPool(deployment(variant("alpha", "a"), variant("copy", "a")), open_source))
    assert pool.batcher("alpha:1") is pool.batcher("copy:1")
    pool.close()


def test_one_version_in_two_engines_is_loaded_by_each() -> None:
    """Two references to one digest with different engines are loaded twice."""
    pair = (variant("alpha", "a"), variant("copy", "a", serve="load_together"))
    pool = loaded(ModelPool(deployment(*pair), open_source))
    assert pool.batcher("alpha:1") is not pool.batcher("copy:1")
    pool.close()


def test_what_cannot_be_opened_is_an_error_and_frees_the_rest() -> None:
    """If the bytes of one version do not match its digest, no version is served."""

    def open_damaged(wanted: str):
        if wanted == digest("b"):
            raise CorruptRegistry("the bytes are not what the digest says")
        return open_source(wanted)

    pool = loaded(
        ModelPool(deployment(variant("alpha", "a", serve="load_together"), variant("beta", "b")), open_damaged)
    )
    assert not pool.ready
    assert pool.error == "the bytes are not what the digest says"
    wait_for(lambda: ENGINES[digest("a")].closed)


def test_a_panic_while_loading_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic ends loading and becomes the pool's error."""

    def panic(sources, device):
        raise PanicError("told")

    monkeypatch.setattr(fakes, "load_panicking", panic, raising=False)
    pool = loaded(ModelPool(deployment(variant("alpha", "a", serve="load_panicking")), open_source))
    assert pool.error == "PanicError: told"


def test_a_fleet_whose_engine_breaks_down_is_not_ready() -> None:
    """When one engine breaks down, the pool is no longer ready and has an error."""

    async def ask() -> None:
        generation = Generation(
            pool.batcher("alpha:1"), digest("a"), pool.tokenizer("alpha:1"), SamplingParams(), HANG_SECONDS
        )
        generation.start([[1]], 1, stream=False)
        with pytest.raises(ApiError):
            await generation.next()
        generation.close()

    pool = loaded(ModelPool(deployment(), open_source))
    assert pool.ready
    ENGINES[digest("a")].fail = PanicError("told")
    asyncio.run(ask())
    assert not pool.ready
    assert pool.error == "PanicError: told"
    pool.close()
    assert ENGINES[digest("b")].closed


def test_an_engine_that_loads_too_little_is_an_error() -> None:
    """A version that no engine has loaded is reported while loading, not at its first request."""
    pool = loaded(ModelPool(deployment(variant("alpha", "a", serve="load_nothing")), open_source))
    assert not pool.ready
    assert "did not load alpha:1" in (pool.error or "")


@pytest.mark.parametrize("moment", ["opening", "loading"])
def test_closing_while_it_loads(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that finishes loading after closing is freed, and the pool never becomes ready."""
    hold, begun, done = threading.Event(), threading.Event(), threading.Event()
    made = []

    def slow(call):
        def held(*args):
            begun.set()
            hold.wait(HANG_SECONDS)
            try:
                return call(*args)
            finally:
                done.set()

        return held

    def load(sources, device):
        made.extend(fakes.load_together(sources, device))
        return list(made)

    monkeypatch.setattr(fakes, "load_slowly", slow(load) if moment == "loading" else load, raising=False)
    opener = slow(open_source) if moment == "opening" else open_source
    pool = ModelPool(deployment(variant("alpha", "a", serve="load_slowly")), opener)
    pool.start()
    assert begun.wait(HANG_SECONDS)
    pool.close()
    hold.set()
    assert done.wait(HANG_SECONDS)
    if moment == "loading":
        wait_for(lambda: made and made[0].closed)
    else:
        assert not made
    assert not pool.ready
    assert not pool.batchers
