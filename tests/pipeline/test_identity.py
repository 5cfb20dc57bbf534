"""Identity: a digest depends on content and order, never on paths; and what is reused because of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftreg import merge, run, train
from ftreg.cli.main import main
from ftreg.core.errors import InfeasiblePlan, MissingExtra, RecipeError
from ftreg.core.host import PluginHost
from ftreg.core.requirements import Requirement, installed_versions
from ftreg.core.types import Version
from ftreg.registry import Registry
from tests.tiny import CHAT_TEMPLATE

TRAIN = {"max_steps": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def second(registry: Registry, recipe: Callable[..., dict]) -> Version:
    """Train another LoRA adapter on the same base."""
    return train(recipe("lora", name="second", train={**TRAIN, "seed": 7}), registry=registry)


def test_a_merge_keeps_its_adapters_in_order_with_their_weights(
    registry: Registry, adapter: Version, second: Version, base: Version
) -> None:
    """Merges of A+B and of B+A are two versions with the adapters in the order given; A+A counts A twice."""
    one = merge(adapter.ref, others={second.ref: 0.25}, weight=0.5, name="ab", registry=registry)
    other = merge(second.ref, others={adapter.ref: 0.5}, weight=0.25, name="ba", registry=registry)
    edges = [(parent.role, parent.digest, parent.weight) for parent in one.manifest.parents]
    assert edges == [
        ("adapter", adapter.digest, 0.5),
        ("adapter", second.digest, 0.25),
        ("base", base.digest, None),
    ]
    assert [parent.digest for parent in other.manifest.parents] == [second.digest, adapter.digest, base.digest]
    assert one.digest != other.digest
    lineage = registry.lineage("ab")
    assert [(edge.role, edge.parent, edge.weight) for edge in lineage.parents(one.digest)] == edges
    twice = merge(adapter.ref, others={adapter.digest: 1.0}, name="aa", registry=registry)
    assert [parent.digest for parent in twice.manifest.parents][:2] == [adapter.digest] * 2
    assert registry.verify("aa", quick=True).ok


def test_the_command_the_function_and_the_recipe_combine_alike(
    registry: Registry, recipe: Callable[..., dict], adapter: Version, second: Version
) -> None:
    """A combination, even one that draws from the seed, is the same version, whichever way it is asked for."""
    wanted = {"combination": "dare_ties", "density": 0.4}
    ways = ["by-command", "by-function", "by-recipe"]
    options = ["--with", f"{second.ref}=0.5", "--set", "combination=dare_ties", "--set", "density=0.4"]
    with pytest.raises(SystemExit) as ended:
        main(["--home", str(registry.home), "merge", adapter.ref, *options, "--name", ways[0]])
    assert not ended.value.code
    merge(adapter.ref, others={second.ref: 0.5}, name=ways[1], registry=registry, **wanted)
    then = [{"merge": {**wanted, "with": {second.ref: 0.5}, "name": ways[2]}}]
    run(recipe("lora", name="bot", then=then), registry=registry)
    made = [registry.get(way) for way in ways]
    assert len({version.digest for version in made}) == 1
    assert [(parent.digest, parent.weight) for parent in made[0].manifest.parents][:2] == [
        (adapter.digest, 1.0),
        (second.digest, 0.5),
    ]


def test_recipes_combine_versions(registry: Registry, recipe: Callable[..., dict], second: Version) -> None:
    """``with`` and ``weight`` of a step in a recipe become inputs of the step, in order."""
    then = [{"merge": {"with": {second.ref: 0.5}, "weight": 2, "name": "mixed"}}]
    trained, mixed = run(recipe("lora", name="third", train={**TRAIN, "seed": 8}, then=then), registry=registry)
    assert [(parent.digest, parent.weight) for parent in mixed.manifest.parents][:2] == [
        (trained.digest, 2.0),
        (second.digest, 0.5),
    ]


def test_only_steps_that_combine_take_further_versions(
    registry: Registry, recipe: Callable[..., dict], adapter: Version
) -> None:
    """A step that takes one version refuses further ones and a weight, and a weight has to be a number."""
    with pytest.raises(InfeasiblePlan, match="step quantize works on a single version and cannot combine several"):
        run(recipe("full", name="no", then=[{"quantize": {"with": adapter.ref}}]), registry=registry)
    with pytest.raises(InfeasiblePlan, match="cannot combine several or weight one"):
        run(recipe("full", name="no", then=[{"quantize": {"weight": 0.5}}]), registry=registry)
    with pytest.raises(RecipeError, match="weight"):
        run(recipe("lora", name="no", then=[{"merge": {"weight": "heavy"}}]), registry=registry)
    assert "no" not in {version.name for version in registry.list(limit=None)}


def test_editing_a_template_trains_again(registry: Registry, recipe: Callable[..., dict], tmp_path: Path) -> None:
    """A chat template counts by its text: the same text in another file is reused, an edited file trains again."""
    path = tmp_path / "chat.jinja"
    path.write_text(CHAT_TEMPLATE, encoding="utf-8")
    moved = tmp_path / "elsewhere.jinja"
    shutil.copyfile(path, moved)

    def trained(template: Path) -> Version:
        raw = recipe("lora", name="styled", train=TRAIN)
        return run({**raw, "data": {**raw["data"], "template": str(template)}}, registry=registry)[0]

    first = trained(path)
    assert trained(moved) == first
    path.write_text(CHAT_TEMPLATE.replace("{{ message['content']", "{{ ' ' + message['content']"), encoding="utf-8")
    edited = trained(path)
    assert edited.number == first.number + 1
    stored = registry.source(edited.ref).path / "chat_template.jinja"
    assert stored.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")


def test_two_machines_make_the_same_digest(rows: Path, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Base, data and template in folders with other names, in another registry, give the same digests."""
    digests = []
    for machine in ("here", "there"):
        folder = tmp_path / machine
        base = folder / f"model-{machine}"
        shutil.copytree(model_folder(), base)
        data, template = folder / f"{machine}.jsonl", folder / f"{machine}.jinja"
        shutil.copyfile(rows, data)
        template.write_text(CHAT_TEMPLATE, encoding="utf-8")
        raw = {
            "name": "bot",
            "base": str(base),
            "data": {"path": str(data), "validation": 0.0, "template": str(template)},
            "method": "lora",
            "train": TRAIN,
            "then": ["merge"],
        }
        with Registry(folder / "registry", host=PluginHost(only=())) as registry:
            run(raw, registry=registry)
            digests.append(sorted(version.digest for version in registry.list()))
    assert digests[0] == digests[1]
    assert len(digests[0]) == 4


def _install(site: Path, name: str, version: str, module: str) -> None:
    """Install a distribution that provides ``module`` into ``site``."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{module}/__init__.py,,\n")
    (site / module).mkdir()
    (site / module / "__init__.py").write_text("")


def test_packages_are_recorded_by_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that provides a module is recorded under its own name; a missing one is recorded as None."""
    _install(tmp_path, "fastgraph-gpu", "3.1", "fastgraph")
    monkeypatch.syspath_prepend(str(tmp_path))
    needed = [Requirement("fastgraph", "fastgraph"), Requirement("no-such-thing", "ftreg[none]")]
    assert installed_versions(needed) == {"fastgraph-gpu": "3.1", "no-such-thing": None}
    assert [requirement.is_installed for requirement in needed] == [True, False]


def test_what_runs_a_version_is_recorded_apart_from_what_made_it(
    registry: Registry, recipe: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 4-bit adapter records that it needs bitsandbytes, and evaluating it without that says so."""
    from ftreg import evaluate

    version = train(recipe("qlora", name="needy", train=TRAIN), registry=registry)
    assert [requirement.distribution for requirement in version.manifest.requires] == ["bitsandbytes"]
    assert version.manifest.environment["bitsandbytes"]
    monkeypatch.setattr(Requirement, "is_installed", property(lambda self: self.distribution != "bitsandbytes"))
    with pytest.raises(MissingExtra, match=r"needy:1 needs bitsandbytes(.|\n)*pip install 'ftreg\[train\]'"):
        evaluate(version.ref, registry=registry)
