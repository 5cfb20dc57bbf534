"""Every kind of bad input through the real command line: one message, the right code, and an unchanged registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftreg import Registry
from ftreg.core.manifest import Producer
from ftreg.registry import Draft
from tests.command import ftreg

ROWS = [{"prompt": f"question {i}", "response": f"answer {i}", "intent": f"i{i % 4}"} for i in range(12)]


def lines(*rows: object) -> bytes:
    """Rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


RECIPE = "name: bot\nbase: base:1\ndata: good.jsonl\nmethod: lora\n"

FILES: dict[str, bytes] = {
    "good.jsonl": lines(*ROWS),
    "empty.jsonl": b"",
    "broken.jsonl": lines(ROWS[0]) + b'{"prompt": "a", \n',
    "columns.jsonl": lines({"foo": 1, "bar": 2}),
    "missing.jsonl": lines(ROWS[0], {"prompt": "only a question"}),
    "silent.jsonl": lines(ROWS[0], {"prompt": "hello", "response": ""}),
    "types.jsonl": lines(ROWS[0], {"prompt": "hello", "response": 3}),
    "latin1.jsonl": '{"prompt": "é", "response": "b"}\n'.encode("latin-1"),
    "cut.parquet": b"PAR1 and nothing more",
    "ragged.csv": b"prompt,response\na,b\nc,d,e,f\n",
    "list.json": b'{"not": "a list"}',
    "scalar.jsonl": b"3\n",
    "recipe.yaml": RECIPE.encode(),
    "key.yaml": (RECIPE + "epochs: 3\n").encode(),
    "nested.yaml": (RECIPE + "train: {epoch: 3}\n").encode(),
    "type.yaml": (RECIPE + "train: {epochs: many}\n").encode(),
    "negative.yaml": (RECIPE + "train: {learning_rate: -1}\n").encode(),
    "lora.yaml": (RECIPE + "lora: {rnak: 8}\n").encode(),
    "section.yaml": (RECIPE + "lora: 8\n").encode(),
    "broken.yaml": b"name: [bot\nbase: x\n",
    "list.yaml": b"- a\n- b\n",
    "latin1.yaml": "# Bot\nname: été\n".encode("latin-1"),
    "void.yaml": b"",
    "prefix.yaml": RECIPE.replace("lora", "prefix").encode() + b"then: [merge]\n",
    "order.yaml": RECIPE.encode() + b"then: [quantize, merge]\n",
    "step.yaml": RECIPE.encode() + b"then: [merge, quantise]\n",
    "stepkey.yaml": RECIPE.encode() + b"then: [merge, {quantize: {sceme: int8}}]\n",
    "thenmap.yaml": RECIPE.encode() + b"then: {merge: {}}\n",
    "from.yaml": RECIPE.encode() + b"then: [merge, {quantize: {from: mergee}}]\n",
    "checkpointing.yaml": RECIPE.replace("lora", "prefix").encode() + b"train: {gradient_checkpointing: true}\n",
    "split.yaml": RECIPE.replace("data: good.jsonl", "data: {path: good.jsonl, validation: 0.6, test: 0.5}").encode(),
    "group.yaml": RECIPE.replace("data: good.jsonl", "data: {path: good.jsonl, group_by: intnt}").encode(),
    "upper.yaml": RECIPE.replace("name: bot", "name: Support Bot").encode(),
    "deploy.yaml": b"name: bot\nvariants: {base:1: 1}\nlimits: {queu: 3}\n",
    "dots.yaml": RECIPE.replace("name: bot", "name: a/../b").encode(),
}

TRAIN = ("--base", "base:1", "--data", "good.jsonl", "--method", "lora", "--name", "bot")


def train(**changes: str) -> tuple[str, ...]:
    """A train command with some of its flags changed."""
    flags = {"base": "base:1", "data": "good.jsonl", "method": "lora", "name": "bot", **changes}
    return ("train", *(part for flag, value in flags.items() for part in (f"--{flag}", value)))


# What is typed, the exit code, and what the message must hold.
CASES: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
    "unknown command": (("trian",), 2, ("trian", "Did you mean train")),
    "unknown option": (("train", "--bse", "x"), 2, ("--bse", "--help")),
    "missing data option": (("train", "--base", "base:1"), 2, ("--data", "RECIPE")),
    "unknown method": (train(method="lorra"), 2, ("lorra", "Did you mean lora")),
    "unknown base": (train(base="bse:1"), 2, ("bse", "Did you mean base")),
    "unknown version number": (train(base="base:9"), 2, ("base:9",)),
    "malformed number": (train(base="base:-1"), 2, ("base:-1",)),
    "missing base folder": (train(base="./nowhere"), 2, ("nowhere", "no such folder")),
    "folder that is no model": (train(base="./folder"), 2, ("config.json", "safetensors")),
    "folder of pickles": (train(base="./pickles"), 2, ("safetensors", "run code")),
    "bare name of a folder": (train(base="folder"), 2, ("./folder",)),
    "unknown scheme of a base": (train(base="ftp:some/model"), 2, ("ftp:some/model",)),
    "bad name": (train(name="Support Bot"), 2, ("Support Bot", "support-bot")),
    "reserved name": (train(name="con"), 2, ("con", "reserved")),
    "no cuda": ((*train(), "--set", "train.device=cuda"), 2, ("cuda",)),
    "target modules that match nothing": (
        (*train(), "--set", "lora.target_modules=[nope]", "--set", "train.max_steps=1"), 2, ("nope", "q_proj"),
    ),
    "nothing to resume": ((*train(), "--resume"), 2, ("--resume",)),
    "setting without a value": ((*train(), "--set", "lora.rank"), 2, ("lora.rank", "--set")),
    "setting twice": ((*train(), "--set", "lora.rank=1", "--set", "lora.rank=2"), 2, ("twice",)),
    "unknown setting": ((*train(), "--set", "lora.rnk=1"), 2, ("rnk", "Did you mean rank")),
    "setting inside a value": ((*train(), "--set", "name.x=1"), 2, ("name.x",)),
    "setting that is no YAML": ((*train(), "--set", "lora.rank=[1"), 2, ("lora.rank",)),
    "key of the method": ((*train(), "--set", "rank=4"), 2, ("rank", "Did you mean lora.rank")),
    "key of a step": (("run", "step.yaml", "--set", "scheme=nf4"), 2, ("scheme", "Known: base, data, lora, merge")),
    "unknown device": ((*train(), "--set", "train.device=cuad"), 2, ("'mps'", "'cuad'", "Did you mean cuda")),
    "unknown schedule": ((*train(), "--set", "train.schedule=cosin"), 2, ("'linear'", "Did you mean cosine")),
    "no network": (train(base="hf:org/name"), 2, ("https://huggingface.co: HF_HUB_OFFLINE is set", "folder")),
    "recipe that is not UTF-8": (("train", "latin1.yaml"), 2, ("latin1.yaml:2", "0xe9 at position 7", "as UTF-8")),
    "no such recipe": (("train", "nope.yaml"), 2, ("nope.yaml", "no such recipe")),
    "recipe key": (("train", "key.yaml"), 2, ("key.yaml", "epochs")),
    "nested recipe key": (("train", "nested.yaml"), 2, ("train.epoch", "Did you mean epochs")),
    "recipe value of a wrong type": (("train", "type.yaml"), 2, ("train.epochs", "many")),
    "recipe value out of range": (("train", "negative.yaml"), 2, ("learning_rate", "greater than 0")),
    "method key": (("train", "lora.yaml"), 2, ("lora.rnak", "Did you mean rank")),
    "method section that is no mapping": (("train", "section.yaml"), 2, ("lora", "mapping")),
    "recipe that is no YAML": (("train", "broken.yaml"), 2, ("broken.yaml:",)),
    "recipe that is a list": (("train", "list.yaml"), 2, ("list.yaml", "mapping")),
    "empty recipe": (("train", "void.yaml"), 2, ("void.yaml", "mapping")),
    "bad name in a recipe": (("train", "upper.yaml"), 2, ("Support Bot",)),
    "path as a name": (("train", "dots.yaml"), 2, ("a/../b",)),
    "splits that leave nothing": (("train", "split.yaml"), 2, ("validation", "nothing to train on")),
    "group column that is not there": (("train", "group.yaml"), 2, ("intnt",)),
    "prefix cannot be merged": (("run", "prefix.yaml"), 2, ("then[0]", "mergeable", "Nothing was started")),
    "steps in the wrong order": (("run", "order.yaml"), 2, ("then[0]", "adapter", "merge")),
    "unknown step": (("run", "step.yaml"), 2, ("quantise", "Did you mean quantize")),
    "step key": (("run", "stepkey.yaml"), 2, ("sceme", "Did you mean scheme")),
    "then that is no list": (("run", "thenmap.yaml"), 2, ("then", "list")),
    "from nothing": (("run", "from.yaml"), 2, ("mergee", "Did you mean merge")),
    "prefix with checkpointing": (("train", "checkpointing.yaml"), 2, ("gradient checkpointing",)),
    "missing data": (train(data="nope.jsonl"), 2, ("nope.jsonl", "no such file")),
    "unknown dataset": (train(data="nope"), 2, ("nope",)),
    "model as data": (train(data="base:1"), 2, ("base:1", "dataset")),
    "empty data": (train(data="empty.jsonl"), 2, ("empty.jsonl",)),
    "broken JSON": (train(data="broken.jsonl"), 2, ("broken.jsonl", "2")),
    "unknown columns": (train(data="columns.jsonl"), 2, ("foo", "prompt")),
    "missing column": (train(data="missing.jsonl"), 2, ("missing.jsonl", "2", "response")),
    "empty response": (train(data="silent.jsonl"), 2, ("silent.jsonl", "2", "response")),
    "wrong type": (train(data="types.jsonl"), 2, ("types.jsonl", "2", "response")),
    "not UTF-8": (train(data="latin1.jsonl"), 2, ("latin1.jsonl", "UTF-8")),
    "truncated parquet": (train(data="cut.parquet"), 2, ("cut.parquet",)),
    "ragged CSV": (train(data="ragged.csv"), 2, ("ragged.csv", "3")),
    "JSON that is no list": (train(data="list.json"), 2, ("list.json",)),
    "row that is no object": (train(data="scalar.jsonl"), 2, ("scalar.jsonl", "1")),
    "check of bad rows": (("data", "check", "missing.jsonl"), 2, ("2", "response")),
    "unknown format": (("data", "check", "good.jsonl", "--format", "promt"), 2, ("promt",)),
    "merge of a checkpoint": (("merge", "base:1"), 2, ("merge", "adapter")),
    "merge of a dataset": (("merge", "rows:1"), 2, ("merge", "adapter")),
    "weight that is not a number": (("merge", "base:1", "--with", "base=heavy"), 2, ("--with", "weight")),
    "unknown scheme": (("quantize", "base:1", "--scheme", "int7"), 2, ("scheme", "int7", "nf4", "Did you mean int8")),
    "impossible sparsity": (("prune", "base:1", "--sparsity", "2"), 2, ("sparsity",)),
    "unknown export format": (("export", "base:1", "--format", "onx"), 2, ("onx", "Did you mean onnx")),
    "far export format": (("export", "base:1", "--format", "gguf"), 2, ("--format", "Known: onnx.")),
    "export onto a folder that exists": (("export", "base:1", "--to", "folder"), 2, ("folder", "exists")),
    "unknown step to apply": (("apply", "merg", "base:1"), 2, ("merg", "Did you mean merge")),
    "bad result name": (("prune", "base:1", "--name", "A B"), 2, ("A B",)),
    "nothing to evaluate on": (("eval", "base:1"), 2, ("--data",)),
    "evaluation of a dataset": (("eval", "rows:1", "--data", "good.jsonl"), 2, ("dataset",)),
    "limit of nothing": (("eval", "base:1", "--limit", "0"), 2, ("--limit",)),
    "init without data": (("init", "tiny", "--data", "nope.jsonl"), 2, ("nope.jsonl",)),
    "impossible size": (("init", "tiny", "--data", "good.jsonl", "--set", "hidden_size=100"), 2, ("hidden_size", "32")),
    "impossible vocabulary": (
        ("init", "tiny", "--data", "good.jsonl", "--set", "vocab_size=5"), 2, ("vocab_size", "288", "not 5"),
    ),
    "unknown engine to evaluate with": (("eval", "base:1", "--engine", "foo"), 2, ("--engine", "Known: onnx")),
    "show what is not there": (("models", "show", "bas"), 2, ("bas", "Did you mean base")),
    "unknown alias": (("models", "show", "base@champion"), 2, ("champion",)),
    "malformed digest": (("models", "show", "b3:xyz"), 2, ("b3:xyz",)),
    "unknown digest": (("models", "show", "b3:0123456789"), 2, ("b3:0123456789",)),
    "swapped alias": (("models", "alias", "champion", "base:1"), 2, ("ftreg models alias base:1 champion",)),
    "unknown kind": (("models", "list", "--kind", "chekpoint"), 2, ("--kind", "Did you mean checkpoint")),
    "hub name without hf": (train(base="Qwen/Qwen3-0.6B"), 2, ("--base", "hf:Qwen/Qwen3-0.6B")),
    "key of another tool": ((*train(), "--set", "lr=1"), 2, ("Did you mean train.learning_rate",)),
    "method that is not there": (train(method="zzz"), 2, ("full, lora, prefix, qlora",)),
    "split of a file": (("eval", "base:1", "--data", "good.jsonl", "--split", "test"), 2, ("Leave --split",)),
    "bad alias": (("models", "alias", "base:1", "The Best"), 2, ("The Best",)),
    "tag without a value": (("models", "tag", "base:1", "stage"), 2, ("stage",)),
    "delete what is not there": (("models", "delete", "nope:1"), 2, ("nope",)),
    "lineage of nothing": (("lineage", "nope"), 2, ("nope",)),
    "unknown lineage option": (("lineage", "base:1", "--svg"), 2, ("--svg",)),
    "unknown plugin": (("plugins", "info", "lorra"), 2, ("lorra", "lora")),
    "unknown plugin to leave out": (("--no-plugin", "nope", "plugins", "list"), 2, ("nope",)),
    "deployment without a name": (("deploy", "--variant", "base:1"), 2, ("'name' is missing",)),
    "deployment without a variant": (("deploy", "bot"), 2, ("--variant",)),
    "bad name of a deployment": (("deploy", "The Bot", "--variant", "base:1"), 2, ("The Bot", "the-bot")),
    "unknown variant": (("deploy", "bot", "--variant", "bse:1=1"), 2, ("bse", "Did you mean base")),
    "variant that is a dataset": (("deploy", "bot", "--variant", "rows:1"), 2, ("rows:1", "dataset")),
    "weight that is no number": (("deploy", "bot", "--variant", "base:1=most"), 2, ("most", "support-bot:1=80")),
    "negative weight": (("deploy", "bot", "--variant", "base:1=-1"), 2, ("base:1=-1", "no usable weight")),
    "variant twice": (("deploy", "bot", "--variant", "base:1=1", "--variant", "base:1=2"), 2, ("twice",)),
    "shadow that is a variant": (("deploy", "bot", "--variant", "base:1", "--shadow", "base"), 2, ("base:1", "twice")),
    "unknown engine": (("deploy", "bot", "--variant", "base:1", "--engine", "onx"), 2, ("onx", "Did you mean onnx")),
    "engine of another kind": (("deploy", "bot", "--variant", "base:1", "--engine", "onnx"), 2, ("checkpoint",)),
    "no such deployment file": (("deploy", "-f", "nope.yaml"), 2, ("nope.yaml",)),
    "deployment file that is no mapping": (("deploy", "-f", "list.yaml"), 2, ("list.yaml", "mapping")),
    "deployment key": (("deploy", "-f", "deploy.yaml"), 2, ("deploy.yaml", "limits.queu", "Did you mean queue")),
    "serve what is not there": (("serve", "nope"), 2, ("nope",)),
    "serve on no port": (("serve", "base:1", "--port", "99999"), 2, ("--port",)),
    "experiment that is not there": (("experiment", "status", "nope"), 2, ("nope",)),
    "home that is a file": (("--home", "good.jsonl", "models", "list"), 2, ("good.jsonl",)),
    "home that is no registry": (("--home", "garbage", "models", "list"), 1, ("garbage",)),
}  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[..., Path]) -> Path:
    """A folder of bad files, with a registry in ``home`` that holds an untrained base and a dataset."""
    folder = tmp_path_factory.mktemp("desk")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    (folder / "pickles").mkdir()
    (folder / "pickles" / "config.json").write_text("{}")
    (folder / "pickles" / "pytorch_model.bin").write_bytes(b"x")
    (folder / "garbage").mkdir()
    (folder / "garbage" / "FORMAT").write_text("ftreg\n")
    (folder / "garbage" / "registry.db").write_bytes(b"this is no database" * 100)
    with Registry(folder / "home") as registry:
        for name, kind in (("base", "checkpoint"), ("rows", "dataset")):
            producer = Producer("import", "folder", "core", "ftreg", "", {})
            facts = {"capabilities": ["full-precision"], "rows": {"train": 1, "validation": 0, "test": 0}}
            with registry.staging() as staging:
                if kind == "checkpoint":
                    registry.copy_in(model_folder(), staging.files)
                else:
                    (staging.files / "train.jsonl").write_text("{}")
                registry.publish(
                    name, Draft(folder=staging.files, kind=kind, parents=(), producer=producer, facts=facts)
                )
    return folder


def inventory(home: Path) -> list[str]:
    """What must not change: every version, blob and staging folder."""
    with Registry(home) as registry:
        versions = [f"{v.ref} {v.digest} {v.aliases} {v.tags}" for v in registry.list()]
    return versions + sorted(str(p) for top in ("manifests", "tmp") for p in (home / top).rglob("*") if p.is_file())


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_clear_message(desk: Path, case: str) -> None:
    """Bad input exits with its code and one message that names it, and changes nothing."""
    arguments, code, wanted = CASES[case]
    home = desk / "home"
    before = [line for line in inventory(home) if not line.startswith(("good:", "rows"))]
    done = ftreg(*arguments, home=home, cwd=desk, code=None)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1, done.stderr
    for part in wanted:
        assert part in done.stderr + done.stdout
    assert "bug in ftreg" not in done.stderr
    after = [line for line in inventory(home) if not line.startswith(("good:", "rows"))]
    assert [line for line in after if "good" not in line] == before


def test_there_are_enough_cases() -> None:
    """The table holds at least forty kinds of bad input."""
    assert len(CASES) >= 40
