"""Eviction: files that a replay has made again are given up, and are made again whenever the version is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftreg import Registry, card, du, evaluate, evict, export, merge, prune, replay, restore, train
from ftreg.api import upkeep
from ftreg.cli.main import main
from ftreg.core.errors import CorruptRegistry, InputError
from ftreg.core.host import PluginHost
from ftreg.core.types import NullProgress, Version
from ftreg.pipeline import steps
from tests.registry.kit import blob_of, read
from tests.tiny import CHAT_TEMPLATE


class Listener(NullProgress):
    """A Progress that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        """Keep a line."""
        self.said.append(message)


@dataclass(frozen=True)
class Chain:
    """A registry with a trained adapter and its merge, both of which were replayed, and their files."""

    registry: Registry
    adapter: Version
    merged: Version
    files: dict[str, dict[str, bytes]]

    def missing(self, version: Version) -> set[str]:
        """Return the paths of the version's files that are not stored."""
        blobs = {path.name for path in (self.registry.home / "blobs").rglob("*") if path.is_file()}
        return {entry.path for entry in version.manifest.files if entry.blake3 not in blobs}


@pytest.fixture(scope="module")
def chain(
    recipe: Callable[..., dict], model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    """Train an adapter with a template of its own, merge it, and replay both, in a registry of its own."""
    folder = tmp_path_factory.mktemp("evicting")
    template = folder / "chat.jinja"
    template.write_text(CHAT_TEMPLATE + "\n", encoding="utf-8")
    raw = recipe("lora", name="bot", base=str(model_folder()), train={"max_steps": 2, "batch_size": 8})
    with Registry(folder / "home", host=PluginHost(only=())) as registry:
        adapter = train({**raw, "data": {**raw["data"], "template": str(template)}}, registry=registry)
        template.unlink()
        merged = merge(adapter.ref, registry=registry)
        for version in (adapter, merged):
            assert replay(version.ref, registry=registry).grade == "bit-exact"
        files = {version.digest: read(registry.source(version.ref).path) for version in (adapter, merged)}
        yield Chain(registry, adapter, merged, files)


def test_a_chain_is_made_again_when_it_is_used(chain: Chain) -> None:
    """Evaluating a merge whose adapter was evicted too makes both again, says so, and finds the same files."""
    registry = chain.registry
    before = du(registry=registry)
    assert before.could_save > 0
    freed = evict(chain.adapter.ref, registry=registry).size + evict(chain.merged.ref, registry=registry).size
    assert du(registry=registry).usage.saved == freed
    assert "model.safetensors" in chain.missing(chain.merged)
    assert "chat_template.jinja" not in chain.missing(chain.adapter)  # its training needs it again
    assert registry.verify().ok
    shown = card(chain.merged.ref, registry=registry)
    assert (shown["state"], shown["folder"], shown["damage"]) == ("rebuildable", None, None)
    listener = Listener()
    evaluate(chain.merged.ref, limit=2, registry=registry, progress=listener)
    assert [message for message in listener.said if "made again by" in message] == [
        "the files of bot-merged:1 were given up; they are made again by step merge",
        "the files of bot:1 were given up; they are made again by method lora",
    ]
    for version in (chain.adapter, chain.merged):
        assert read(registry.source(version.ref).path) == chain.files[version.digest]
    assert registry.verify().ok
    assert du(registry=registry).usage.saved == 0


def test_every_use_makes_it_again(chain: Chain, tmp_path: Path) -> None:
    """A copy of the files, a further step, and ``restore`` open an evicted version."""
    registry, merged = chain.registry, chain.merged

    def use(how: Callable[[], object]) -> None:
        evict(merged.ref, registry=registry)
        how()
        assert registry.get(merged.ref).state == "here"

    use(lambda: export(merged.ref, to=tmp_path / "copy", registry=registry))
    assert chain.files[merged.digest].items() <= read(tmp_path / "copy").items()  # the model card is added
    use(lambda: prune(merged.ref, sparsity=0.1, accept=True, registry=registry))
    use(lambda: restore(merged.ref, registry=registry))


def test_other_files_are_refused(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the work makes other files now, the version is not opened, and says which differ; nothing else is stored."""
    registry, merged = chain.registry, chain.merged
    run = steps.run_plugin

    def run_otherwise(host, spec, job):
        artifact = run(host, spec, job)
        (job.staging / "config.json").write_text("{}")
        return artifact

    evict(merged.ref, registry=registry)
    with monkeypatch.context() as patch:
        patch.setattr(steps, "run_plugin", run_otherwise)
        with pytest.raises(CorruptRegistry, match=r"step merge now makes others: config\.json \(nothing on record"):
            restore(merged.ref, registry=registry)
    assert registry.get(merged.ref).state == "rebuildable"
    restore(merged.ref, registry=registry)
    assert read(registry.source(merged.ref).path) == chain.files[merged.digest]


def test_what_is_not_known_to_be_the_same_is_kept(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a bit-exact replay with the packages installed now, on this processor, nothing is given up."""
    registry, adapter = chain.registry, chain.adapter
    pruned = prune(chain.merged.ref, sparsity=0.2, accept=True, name="pruned", registry=registry)
    with pytest.raises(InputError, match=r"no replay is on record(.|\n)*ftreg\.replay\('pruned:1'\)"):
        evict(pruned.ref, registry=registry)
    with pytest.raises(InputError, match="it was imported"):
        evict(str(adapter.manifest.parent("base")), registry=registry)
    with monkeypatch.context() as patch:
        patch.setattr("ftreg.pipeline.runs.installed_versions", lambda requires: {"torch": "0.0"})
        with pytest.raises(InputError, match="other packages than those installed now"):
            evict(adapter.ref, registry=registry)
    with monkeypatch.context() as patch:
        patch.setattr("ftreg.pipeline.eviction.describe_machine", lambda: {"processor": "6502", "threads": None})
        with pytest.raises(InputError, match="on another processor"):
            evict(adapter.ref, registry=registry)
    assert not chain.missing(adapter)


def test_nothing_is_given_up_that_a_damaged_input_made(chain: Chain) -> None:
    """A version is kept while what it was made from is damaged, over all generations that were given up."""
    registry = chain.registry
    blob = blob_of(registry, registry.get(str(chain.adapter.manifest.parent("base"))), "model.safetensors")
    content = blob.read_bytes()
    evict(chain.adapter.ref, registry=registry)
    blob.chmod(0o644)
    blob.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"bot:1, which it was made from, was given up, and .* is damaged"):
        evict(chain.merged.ref, registry=registry)
    blob.write_bytes(content)
    restore(chain.adapter.ref, registry=registry)


def test_gc_gives_up_what_it_may(chain: Chain) -> None:
    """``gc`` evicts versions without an alias whose replay is old enough, and a dry run only says so."""
    registry = chain.registry
    registry.set_alias(chain.merged.ref, "champion")
    assert upkeep.gc(rebuildable=True, dry_run=True, registry=registry).evicted == ()
    planned = upkeep.gc(rebuildable=True, grace=0, dry_run=True, registry=registry)
    assert [each.ref for each in planned.evicted] == ["bot:1"]
    assert registry.get("bot").state == "here"
    done = upkeep.gc(rebuildable=True, grace=0, registry=registry)
    assert done.evicted == planned.evicted
    assert registry.get("bot").state == "rebuildable"
    assert registry.verify().ok
    restore("bot", registry=registry)
    registry.remove_alias(chain.merged.name, "champion")


def test_the_commands(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands say what is rebuildable, list it, and put it back."""

    def shown(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(["--home", str(chain.registry.home), *arguments])
        assert end.value.code == 0
        captured = capsys.readouterr()
        return captured.out + captured.err

    assert "bot-merged:1 is rebuildable; " in shown("models", "evict", "bot-merged:1")
    assert "rebuildable" in shown("models", "list")
    assert "rebuildable: its files were given up" in shown("models", "show", "bot-merged:1")
    assert "1 versions rebuildable: no damage" in shown("verify")
    assert "given up by eviction" in shown("du")
    assert "was evicted" in shown("models", "log", "bot-merged")
    assert "step merge" in shown("models", "restore", "bot-merged:1")
    assert "rebuildable" not in shown("models", "list")
