"""Planning a deployment: references are resolved to digests, or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftreg import Registry
from ftreg.context import Context
from ftreg.core.errors import CorruptRegistry, InputError, RecipeError, UnknownName
from ftreg.serving.planning import plan, read_spec

AB = {"bot:1": 80, "bot:2": 20}


def test_digests_are_pinned_and_the_first_variant_is_the_control(context: Context) -> None:
    """A plan has the digests of its versions in the given order."""
    deployment, sources = plan(context, {"name": "bot", "variants": AB, "shadows": ["bot-merged"]})
    assert [variant.digest for variant in deployment.variants] == [
        context.registry.get(ref).digest for ref in ("bot:1", "bot:2")
    ]
    assert deployment.weights == {"bot:1": 80, "bot:2": 20}
    assert [shadow.ref for shadow in deployment.shadows] == ["bot-merged:1"]
    assert [source.ref for source in sources] == ["bot:1", "bot:2", "bot-merged:1"]


def test_aliases_and_bare_names_become_numbers(context: Context) -> None:
    """Aliases and bare names are resolved to numbers when the deployment is planned."""
    context.registry.set_alias("bot:1", "champion")
    deployment, _ = plan(context, {"name": "x", "variants": {"bot@champion": 1, "bot": 1}})
    assert list(deployment.weights) == ["bot:1", "bot:2"]


def test_the_salt_follows_the_versions(context: Context) -> None:
    """The default salt depends on the versions only; a given salt is used."""
    same = [plan(context, {"name": "x", "variants": AB})[0].salt for _ in range(2)]
    assert same[0] == same[1]
    assert plan(context, {"name": "x", "variants": {"bot:1": 1, "bot-merged:1": 1}})[0].salt != same[0]
    assert plan(context, {"name": "x", "variants": AB, "salt": "pepper"})[0].salt == "pepper"


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({"variants": AB}, RecipeError, "'name' is missing"),
        ({"name": "Bad Name", "variants": AB}, InputError, "cannot be a name"),
        ({"name": "x"}, InputError, "no variant"),
        ({"name": "x", "variants": {"bot:9": 1}}, UnknownName, "bot:9"),
        ({"name": "x", "variants": {"bott": 1}}, UnknownName, "bot"),
        ({"name": "x", "variants": {"bot:1": -1}}, RecipeError, "at least 0"),
        ({"name": "x", "variants": {"bot:1": "much"}}, RecipeError, "number"),
        ({"name": "x", "variants": {"bot:1": 0}}, RecipeError, "weight above 0"),
        ({"name": "x", "variants": {"bot:2": 1, "bot": 1}}, InputError, "twice"),
        ({"name": "x", "variants": AB, "shadows": ["bot:1"]}, InputError, "twice"),
        ({"name": "x", "variants": {"colours": 1}}, InputError, "dataset"),
        ({"name": "x", "variants": AB, "engine": "onnx"}, InputError, "onnx"),
        ({"name": "x", "variants": AB, "engine": "onyx"}, UnknownName, "onnx"),
        ({"name": "x", "variants": AB, "wieghts": {}}, RecipeError, "unknown key"),
        ({"name": "x", "variants": AB, "limits": {"queu": 3}}, RecipeError, "queue"),
        ({"name": "x" * 64, "variants": AB}, RecipeError, "63"),
        ({"name": "x", "variants": AB, "limits": {"timeout": float("inf")}}, RecipeError, "finite"),
        ({"name": "x", "variants": AB, "limits": {"batch": 1, "queue": 0}}, RecipeError, "max_answers"),
        ({"name": "x", "variants": AB, "key_header": "X User"}, RecipeError, "key_header"),
        ({"name": "x", "variants": AB, "salt": "a\x00b"}, RecipeError, "salt"),
    ],
)
def test_bad_requests_are_refused(context: Context, request_: dict, error: type[Exception], message: str) -> None:
    """Each invalid specification is refused with one error that names what is wrong."""
    with pytest.raises(error, match=message):
        plan(context, request_)


def test_a_damaged_version_is_not_deployed(tmp_path: Path, registry: Registry) -> None:
    """A version whose bytes were changed is refused, with the file's name."""
    import shutil

    copy = tmp_path / "registry"
    shutil.copytree(registry.home, copy)
    with Registry(copy, host=registry.host) as damaged:
        entry = max(damaged.get("bot:1").manifest.files, key=lambda entry: entry.size)
        blob = next(copy.joinpath("blobs").rglob(entry.blake3))
        blob.chmod(0o600)
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.write_bytes(data)
        with pytest.raises(CorruptRegistry, match=r"adapter_model\.safetensors"):
            plan(Context(damaged), {"name": "x", "variants": AB})


def test_a_deployment_file_is_read(tmp_path: Path) -> None:
    """A file that is not YAML, or not a mapping, is refused with its name."""
    path = tmp_path / "deployment.yaml"
    path.write_text("name: x\nvariants: {bot:1: 80}\n")
    assert read_spec(path)["variants"] == {"bot:1": 80}
    for text in ("[1, 2]", "a: [", ""):
        path.write_text(text)
        with pytest.raises(RecipeError, match=r"deployment\.yaml"):
            read_spec(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        read_spec(tmp_path / "absent.yaml")
