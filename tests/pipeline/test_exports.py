"""Exported folders: complete, described by a card, and run by examples that know nothing of ftreg."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3
from huggingface_hub import ModelCard

from ftreg import Registry, evaluate, export, merge, quantize
from ftreg.core.errors import InputError
from ftreg.core.manifest import Producer
from ftreg.core.types import Example, Message, Version
from ftreg.data import Encoder
from ftreg.plugins.engines import onnx, transformers
from ftreg.registry import Draft

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "exported"
QUESTION = "What colour is snow?"

# Runs scripts one after the other in one process, in which ftreg cannot be imported, and prints what each printed.
RUNNER = """
import contextlib, io, json, os, runpy, sys

class Forbidden:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "ftreg":
            raise ImportError(name)

sys.meta_path.insert(0, Forbidden())
printed = []
for folder, *arguments in json.loads(sys.argv[1]):
    os.chdir(folder)
    sys.argv, out = arguments, io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(arguments[0], run_name="__main__")
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def versions(registry: Registry, base: Version, adapter: Version) -> dict[str, Version]:
    """A version of each kind that can be exported, the base and what was made from it."""
    merged = merge(adapter.ref, name="exports-merged", registry=registry)
    traced = {"runtime": "transformers", "precision": "int8"}
    evaluate(merged.ref, registry=registry)
    return {
        "base": base,
        "adapter": adapter,
        "checkpoint": merged,
        "quantized": quantize(merged.ref, name="exports-nf4", scheme="nf4", accept=True, registry=registry),
        "onnx_graph": export(merged.ref, name="exports-traced", accept=True, registry=registry, **traced),
        "onnx_genai": export(merged.ref, name="exports-genai", registry=registry),
    }


@pytest.fixture(scope="module")
def folders(
    registry: Registry, versions: dict[str, Version], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The exported folder of each version."""
    home = tmp_path_factory.mktemp("exported")
    for kind, version in versions.items():
        export(version.ref, to=home / kind, registry=registry)
    return {kind: home / kind for kind in versions}


def answer_of(registry: Registry, version: Version) -> str:
    """Return ftreg's own greedy answer to ``QUESTION``."""
    load = onnx.load if version.kind == "onnx" else transformers.load
    engine = load(registry.source(version.ref), "cpu")
    prompt = Encoder(engine.tokenizer, max_length=256).prompt(Example(messages=(Message("user", QUESTION),)))[0]
    (answer,) = engine.generate([prompt], max_new_tokens=64)
    return str(engine.tokenizer.decode(answer, skip_special_tokens=True))


def test_examples_answer_as_ftreg_does(
    registry: Registry, versions: dict[str, Version], folders: dict[str, Path], tmp_path: Path
) -> None:
    """Each example, and the code on each card, runs without ftreg; the examples answer as ftreg does, greedily."""
    scripts = {
        "checkpoint": ["checkpoint.py", folders["checkpoint"]],
        "quantized": ["checkpoint.py", folders["quantized"]],
        "adapter": ["adapter.py", folders["adapter"], folders["base"]],
        "onnx_graph": ["onnx_graph.py", folders["onnx_graph"]],
        "onnx_genai": ["onnx_genai.py", folders["onnx_genai"]],
    }
    runs = [[tmp_path, EXAMPLES / script, *found, QUESTION] for script, *found in scripts.values()]
    for kind in ("checkpoint", "quantized", "adapter", "onnx_graph", "onnx_genai"):
        code = tmp_path / f"{kind}_card.py"
        snippet = re.findall(r"```python\n(.*?)```", (folders[kind] / "README.md").read_text(), re.DOTALL)[0]
        code.write_text(re.sub(r"FOLDER-OF-[\w-]+", str(folders["base"]), snippet))
        runs.append([folders[kind], code])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(runs, default=str)],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    for kind, text in zip(scripts, printed, strict=False):
        assert text.strip() == answer_of(registry, versions[kind]).strip() != "", kind
    assert all(printed)


@pytest.mark.parametrize("kind", ["base", "adapter", "checkpoint", "quantized", "onnx_graph", "onnx_genai"])
def test_a_folder_proves_what_it_is(kind: str, versions: dict[str, Version], folders: dict[str, Path]) -> None:
    """The manifest's hash is the digest, its files are there with their hashes, and the card has all of them."""
    folder, version = folders[kind], versions[kind]
    manifest = (folder / "ftreg.manifest").read_bytes()
    assert "b3:" + blake3(manifest).hexdigest() == version.digest
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert version.digest in card
    for file in json.loads(manifest)["files"]:
        assert blake3((folder / file["path"]).read_bytes()).hexdigest() == file["blake3"]
        assert file["blake3"] in card
    assert {path.name for path in folder.iterdir()} == {
        *(file["path"] for file in json.loads(manifest)["files"]), "README.md", "ftreg.manifest"
    }  # fmt: skip
    check = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[-1]
    done = subprocess.run([sys.executable, "-c", check], cwd=folder, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (version.digest, "")


def test_the_hub_understands_the_card(
    registry: Registry, versions: dict[str, Version], folders: dict[str, Path]
) -> None:
    """The Hub's own parser finds licence, library, task and the evaluation's figures; parents are listed below."""
    merged = versions["checkpoint"]
    card = ModelCard.load(folders["checkpoint"] / "README.md")
    front = card.data.to_dict()
    assert (
        front.items()
        >= {"license": "unknown", "library_name": "transformers", "pipeline_tag": "text-generation"}.items()
    )
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found["loss"] in [record.body["loss"] for record in registry.evidence(merged.ref, "evaluation")]
    assert "exact_match" in found
    assert card.text.count("within its tolerance") == 1
    assert "max_steps: 8" in card.text  # the training's settings are those of the adapter that was merged
    assert "`: unknown" in card.text.partition("## Licence")[2]
    for parent in registry.lineage(merged.ref).nodes.values():
        if parent.name in ("bot", "base", "colours"):
            assert parent.digest in card.text
    assert ModelCard.load(folders["adapter"] / "README.md").data.to_dict()["library_name"] == "peft"
    assert "computed on cpu" in (folders["onnx_genai"] / "README.md").read_text()


@pytest.mark.parametrize(
    ("readme", "tags", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\nA base.\n", {}, "apache-2.0"),
        ("---\nlicense: apache-2.0\n---\nA base.\n", {"license": "mit"}, "mit"),
        ("Apache, I think.\n", {}, "unknown"),
        ("---\nlicense: [\n---\n", {}, "unknown"),
    ],
    ids=["declared", "tagged", "none", "damaged"],
)
def test_the_licence_is_a_fact(
    readme: str,
    tags: dict[str, str],
    licence: str,
    registry: Registry,
    model_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The licence is the version's tag, else what its own README declares, else unknown; that README is kept."""
    with registry.staging() as staging:
        registry.copy_in(model_folder(), staging.files)
        (staging.files / "README.md").write_text(readme)
        producer = Producer("import", "base", "core", "ftreg", "")
        draft = Draft(folder=staging.files, kind="checkpoint", producer=producer)
        version = registry.publish(f"licence-{len(tags)}-{licence}", draft, tags=tags)
    export(version.ref, to=tmp_path / "out", registry=registry)
    assert ModelCard.load(tmp_path / "out" / "MODEL_CARD.md").data.license == licence
    assert (tmp_path / "out" / "README.md").read_text() == readme


def test_nothing_is_overwritten_or_half_written(
    registry: Registry, base: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that exists is refused and stays as it is; a failure leaves no folder behind."""
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        export(base.ref, to=tmp_path / "there", registry=registry)

    def fail(*_: object) -> str:
        raise RuntimeError("no card")

    monkeypatch.setattr("ftreg.pipeline.exports.model_card", fail)
    with pytest.raises(RuntimeError, match="no card"):
        export(base.ref, to=tmp_path / "new", registry=registry)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
