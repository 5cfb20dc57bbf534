from __future__ import annotations

import asyncio
import threading

import pytest

from ftreg.core.errors import CorruptRegistry
from ftreg.serving.decoding.fleet import Fleet
from ftreg.serving.decoding.generation import Generation, Settings
from ftreg.serving.errors import ApiError
from tests.serving import fakes
from tests.serving.fakes import ENGINES, PanicError, deployment, digest, open_source, variant, wait_for


def loaded(fleet: Fleet) -> Fleet:
    """Start a fleet and wait for how that ends."""
    fleet.start()
    wait_for(lambda: fleet.ready or fleet.error)
    return fleet


def test_every_version_is_loaded_with_a_batcher() -> None:
    """Versions are loaded by their engine; those that it loads together share a batcher, a shadow included."""
    fleet = Fleet(
        deployment(
            variant("alpha", "a", serve="load_together"),
            variant("beta", "b", serve="load_together"),
            variant("gamma", "c"),
            shadows=[variant("delta", "d", serve="load_together")],
        ),
        open_source,
    )
    assert not fleet.ready
    loaded(fleet)
    assert fleet.ready
    assert fleet.batcher("alpha:1") is fleet.batcher("beta:1") is fleet.batcher("delta:1")
    assert fleet.batcher("gamma:1") is not fleet.batcher("alpha:1")
    assert len(fleet.batchers) == 2
    assert fleet.model("beta:1") is ENGINES[digest("b")].models[digest("b")]
    assert fleet.source("beta:1").digest == digest("b")
    fleet.close()
    assert not fleet.ready
    assert all(ENGINES[digest(letter)].closed for letter in "abcd")


def test_one_version_under_two_names_is_loaded_once() -> None:
    """Two names of one digest share its model."""
    fleet = loaded(Fleet(deployment(variant("alpha", "a"), variant("copy", "a")), open_source))
    assert fleet.batcher("alpha:1") is fleet.batcher("copy:1")
    fleet.close()


def test_one_version_in_two_engines_is_loaded_by_each() -> None:
    """Two names of one digest that ask for different engines get them."""
    pair = (variant("alpha", "a"), variant("copy", "a", serve="load_together"))
    fleet = loaded(Fleet(deployment(*pair), open_source))
    assert fleet.batcher("alpha:1") is not fleet.batcher("copy:1")
    fleet.close()


def test_what_cannot_be_opened_is_an_error_and_frees_the_rest() -> None:
    """A version whose bytes are not its digest's is never served, nor are the others without it."""

    def open_damaged(wanted: str):
        if wanted == digest("b"):
            raise CorruptRegistry("the bytes are not what the digest says")
        return open_source(wanted)

    fleet = loaded(Fleet(deployment(variant("alpha", "a", serve="load_together"), variant("beta", "b")), open_damaged))
    assert not fleet.ready
    assert fleet.error == "the bytes are not what the digest says"
    wait_for(lambda: ENGINES[digest("a")].closed)


def test_a_panic_while_loading_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no ``Exception`` ends the loading too, and is told."""

    def panic(sources, device):
        raise PanicError("told")

    monkeypatch.setattr(fakes, "load_panicking", panic, raising=False)
    fleet = loaded(Fleet(deployment(variant("alpha", "a", serve="load_panicking")), open_source))
    assert fleet.error == "PanicError: told"


def test_a_fleet_whose_engine_breaks_down_is_not_ready() -> None:
    """Ready means that all models answer: when one no longer can, whoever watches is told."""

    async def ask() -> None:
        generation = Generation(fleet.batcher("alpha:1"), digest("a"), fleet.codec("alpha:1"), Settings(), 10.0)
        generation.start([[1]], 1, stream=False)
        with pytest.raises(ApiError):
            await generation.next()
        generation.close()

    fleet = loaded(Fleet(deployment(), open_source))
    assert fleet.ready
    ENGINES[digest("a")].fail = PanicError("told")
    asyncio.run(ask())
    assert not fleet.ready
    assert fleet.error == "PanicError: told"
    fleet.close()
    assert ENGINES[digest("b")].closed


def test_an_engine_that_loads_too_little_is_an_error() -> None:
    """A version that no engine holds is found at the start, not at its first request."""
    fleet = loaded(Fleet(deployment(variant("alpha", "a", serve="load_nothing")), open_source))
    assert not fleet.ready
    assert "did not load alpha:1" in (fleet.error or "")


@pytest.mark.parametrize("moment", ["opening", "loading"])
def test_closing_while_it_loads(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded after closing is freed, and the fleet never becomes ready."""
    hold, begun, done = threading.Event(), threading.Event(), threading.Event()
    made = []

    def slow(call):
        def held(*args):
            begun.set()
            hold.wait(10)
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
    fleet = Fleet(deployment(variant("alpha", "a", serve="load_slowly")), opener)
    fleet.start()
    assert begun.wait(10)
    fleet.close()
    hold.set()
    assert done.wait(10)
    if moment == "loading":
        wait_for(lambda: made and made[0].closed)
    else:
        assert not made
    assert not fleet.ready
    assert not fleet.batchers
