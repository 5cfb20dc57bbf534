"""Suite lm-eval: its figures are those of lm-eval's own model, on every kind of version, and become evidence.

lm-eval is not installed beside everything else, because it slows every training down: `make test-extras`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftreg import export, run_suite
from ftreg.api.suites import SuiteRun
from ftreg.cli.main import main
from ftreg.compat.lm_eval import LM_EVAL
from ftreg.context import Context
from ftreg.core.errors import FtregError, InputError, RecipeError, UnknownName
from ftreg.core.types import Version
from ftreg.pipeline.engines import open_engine
from ftreg.registry import Registry
from tests.evaluation.helpers import TableEngine
from tests.pipeline.conftest import THINGS
from tests.tiny import make_tokenizer

pytestmark = pytest.mark.skipif(not LM_EVAL.is_installed, reason="lm-eval is not installed: make test-extras")

DATA = {
    "": "dataset_path: json\ndataset_kwargs: {data_files: {test: ROWS}}",
    "lost": "dataset_path: json\ndataset_kwargs: {data_files: {test: /does/not/exist.jsonl}}",
    "remote": "dataset_path: nobody/nothing",
}
TASKS = {
    "colours": """
output_type: multiple_choice
doc_to_text: "What colour is {{thing}}?"
doc_to_choice: [blue, green, white, black]
doc_to_target: "{{colour}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 1.5}
""",
    "writing": """
output_type: generate_until
doc_to_text: "What colour is {{thing}}?"
doc_to_target: "{{thing}} is {{colour}}"
generation_kwargs: {until: ["."], max_gen_toks: 40}
metric_list: [{metric: exact_match}]
""",
    "reading": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "sampled": """
output_type: generate_until
doc_to_text: "{{thing}}"
doc_to_target: "{{colour}}"
generation_kwargs: {until: ["."], do_sample: true, temperature: 0.7, num_beams: 2}
""",
    "long": """
output_type: generate_until
doc_to_text: "{{thing}}"
doc_to_target: "{{colour}}"
generation_kwargs: {until: ["."], max_gen_toks: 256}
""",
    "unsafe": """
output_type: generate_until
doc_to_text: "{{thing}}"
doc_to_target: "{{colour}}"
generation_kwargs: {until: ["."]}
unsafe_code: true
""",
    "broken": """
output_type: multiple_choice
doc_to_text: "{{thing}}"
doc_to_choice: [blue, green]
doc_to_target: "{{nothing.at.all}}"
""",
}
TASKS |= dict.fromkeys(("lost", "remote"), TASKS["colours"])

FEW = {"lm-eval.bootstrap_iters": 10}


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of tasks over twelve rows, whose texts are shorter and longer than the model's context."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"thing": thing, "colour": colour, "text": f"The {thing} is {colour}. " * repeats}
        for repeats in (1, 8, 60)
        for thing, colour in THINGS.items()
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        data = DATA.get(name, DATA[""]).replace("ROWS", str(folder / "rows.jsonl"))
        (folder / f"{name}.yaml").write_text(f"task: {name}\ntest_split: test\n{data}{text}")
    return folder


@pytest.fixture
def suite(registry: Registry, tasks: Path) -> Callable[..., SuiteRun]:
    """Return a function that runs tasks on a version: ``suite("bot:1", "colours,reading")``."""

    def run(ref: str, names: str, settings: dict[str, Any] | None = None, **arguments: Any) -> SuiteRun:
        given = {"tasks": tasks, **arguments}
        return run_suite(ref, f"lm-eval:{names}", settings=FEW | (settings or {}), registry=registry, **given)

    return run


def figures(run: SuiteRun) -> dict[str, float | None]:
    """Return the figures of a run by task and metric."""
    return {f"{task.name}.{figure.metric}": figure.value for task in run.tasks for figure in task.figures}


def own_figures(
    tasks: Path, names: Sequence[str], *, chat: bool = False, shots: int | None = None, **model: Any
) -> dict[str, float]:
    """Return the figures that lm-eval computes with its own model."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model="hf",
        model_args={"dtype": "float32", **model},
        device="cpu",
        tasks=list(names),
        task_manager=TaskManager(include_path=tasks, include_defaults=False),
        num_fewshot=shots,
        bootstrap_iters=0,
        apply_chat_template=chat,
    )
    assert found is not None
    return {
        f"{task}.{metric.removesuffix(',none')}": value
        for task, values in found["results"].items()
        for metric, value in values.items()
        if metric.endswith(",none") and "stderr" not in metric
    }


@pytest.mark.parametrize(
    ("shots", "chat"), [(None, False), (2, False), (2, True)], ids=["zero-shot", "few-shot", "chat"]
)
def test_figures_are_those_of_lm_eval_itself(
    shots: int | None, chat: bool, suite: Callable[..., SuiteRun], registry: Registry, base: Version, tasks: Path
) -> None:
    """A checkpoint has the figures that lm-eval's own model computes, with examples and a chat template too."""
    names = ["colours", "writing", "reading"]
    settings = {"lm-eval.num_fewshot": shots, "lm-eval.apply_chat_template": chat}
    found = suite(base.ref, ",".join(names), settings)
    expected = own_figures(tasks, names, chat=chat, shots=shots, pretrained=str(registry.source(base.ref).path))
    assert set(figures(found)) == {
        "colours.acc", "colours.acc_norm", "writing.exact_match", "reading.byte_perplexity", "reading.bits_per_byte",
    }  # fmt: skip
    assert figures(found) == pytest.approx(expected, rel=1e-5)
    assert [(task.version, task.num_fewshot, task.examples) for task in found.tasks[:1]] == [("1.5", shots or 0, 12)]


def test_answers_and_likelihoods_are_those_of_lm_eval_itself(registry: Registry, base: Version, tasks: Path) -> None:
    """Each request gets what lm-eval's own model gives it, whatever its spaces, its length and its stop texts."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from ftreg.evaluation.harness.model import EngineModel

    own = HFLM(pretrained=str(registry.source(base.ref).path), dtype="float32", device="cpu", batch_size=3)
    pairs = [
        ("", "sky"), ("The sky is", " blue"), ("The sky is ", "blue"), ("A", "B"), ("A", "C"),
        ("What colour is it? " * 60, "white, white"), ("<|user|>sky<|end|><|assistant|>", "sky is blue"),
    ]  # fmt: skip
    texts = ["", "The sky is blue.", "coal is black; " * 80]
    chat = "<|user|>What colour is {}?<|end|><|assistant|>"
    settings = [{"until": ["black"], "max_gen_toks": 40}, {"until": "\n", "max_gen_toks": 8, "temperature": 0}, {}]
    prompts = [(chat.format(thing), one) for thing in THINGS for one in settings[:2]]
    prompts += [("The sky is" * 100, settings[0]), ("snow", settings[0])]

    def instances(kind: str, arguments: Sequence[Any]) -> list[Any]:
        return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]

    with open_engine(Context(registry), registry.source(base.ref)) as engine:
        ours = EngineModel(engine)
        scores = ours.loglikelihood(instances("loglikelihood", pairs))
        expected = own.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
        assert [score for score, _ in scores] == pytest.approx([score for score, _ in expected], abs=1e-4)
        assert [greedy for _, greedy in scores] == [greedy for _, greedy in expected]
        rolling = instances("loglikelihood_rolling", [(text,) for text in texts])
        assert ours.loglikelihood_rolling(rolling) == pytest.approx(own.loglikelihood_rolling(rolling), rel=1e-5)
        generated = instances("generate_until", prompts)
        answers = ours.generate_until(generated)
    assert answers == own.generate_until(generated, disable_tqdm=True)
    assert "coal is " in answers
    assert len(set(answers)) > 4


def test_adapter_and_onnx(
    suite: Callable[..., SuiteRun], registry: Registry, base: Version, adapter: Version, tasks: Path
) -> None:
    """An adapter has the figures of lm-eval's own model with PEFT, and an ONNX export of it the same ones."""
    found = figures(suite(adapter.ref, "colours,reading"))
    paths = {"pretrained": base, "peft": adapter}
    own = own_figures(
        tasks, ["colours", "reading"], **{key: str(registry.source(each.ref).path) for key, each in paths.items()}
    )
    assert found == pytest.approx(own, rel=1e-5)
    exported = export(adapter.ref, "onnx", merge=True, registry=registry)
    assert figures(suite(exported.ref, "colours,reading,writing", limit=8)) == pytest.approx(
        figures(suite(adapter.ref, "colours,reading,writing", limit=8)), rel=1e-3
    )


def test_figures_are_evidence(suite: Callable[..., SuiteRun], registry: Registry, base: Version, tasks: Path) -> None:
    """What is on record is not run again, task by task, until tasks, rows, settings or the limit are others."""

    def records() -> list[Any]:
        return [record.body for record in registry.evidence(base.ref) if record.type == "suite"]

    settings = {"lm-eval.seed": 7}
    before = len(records())
    first = suite(base.ref, "colours", settings, limit=3)
    assert suite(base.ref, "colours", settings, limit=3) == first
    assert len(records()) == before + 1
    both = suite(base.ref, "reading,colours", settings, limit=3)
    assert [task.name for task in both.tasks] == ["reading", "colours"]
    assert len(records()) == before + 2
    suite(base.ref, "colours", settings, limit=2)
    suite(base.ref, "colours", {"lm-eval.seed": 8}, limit=3)
    suite(base.ref, "colours", settings, limit=3, again=True)
    assert len(records()) == before + 5
    body = records()[before]
    assert (body["suite"], body["name"], body["limit"], body["engine"]["name"]) == (
        "lm-eval",
        "colours",
        3,
        "transformers",
    )
    assert (body["settings"]["seed"], body["tasks"][0]["examples"]) == (7, 3)
    assert body["tasks"][0]["figures"][0].keys() == {"metric", "filter", "value", "stderr", "higher_is_better"}


def test_groups(suite: Callable[..., SuiteRun], base: Version, tasks: Path, tmp_path: Path) -> None:
    """A group has figures made of those of its tasks, which follow it."""
    for file in tasks.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "colours2.yaml").write_text(
        (tasks / "colours.yaml").read_text().replace("task: colours", "task: twice")
    )
    group = "group: both\ntask: [colours, twice]\naggregate_metric_list: [{metric: acc}]\nmetadata: {version: 3}\n"
    (tmp_path / "both.yaml").write_text(group)
    found = suite(base.ref, "both", tasks=tmp_path)
    assert [(task.name, task.version) for task in found.tasks] == [("both", "3"), ("colours", "1.5"), ("twice", "1.5")]
    values = figures(found)
    assert values["both.acc"] == pytest.approx(values["colours.acc"])


def test_a_chat_template_is_needed(tasks: Path) -> None:
    """A model without one is refused if it should be used."""
    from ftreg.evaluation.harness.config import HarnessConfig
    from ftreg.evaluation.harness.model import EngineModel
    from ftreg.evaluation.harness.run import run_tasks
    from ftreg.evaluation.harness.tasks import load_tasks

    config = HarnessConfig(apply_chat_template=True)
    model = EngineModel(TableEngine(np.zeros((320, 320)), make_tokenizer(chat=False)))
    with pytest.raises(InputError, match="has no chat template"):
        run_tasks(model, load_tasks(["colours"], tasks, config)[0], config, 1)


def test_identity_of_a_task(tasks: Path, tmp_path: Path) -> None:
    """The same rows elsewhere are the same task; another row, question or number of examples is another."""
    from ftreg.evaluation.harness.config import HarnessConfig
    from ftreg.evaluation.harness.tasks import load_tasks

    def digest(folder: Path, limit: int | None = 4, **config: Any) -> str:
        return load_tasks(["colours"], folder, HarnessConfig(**config))[0].digest(limit)

    rows, task = (tasks / "rows.jsonl").read_text(), (tasks / "colours.yaml").read_text()
    copies = {
        "same": (rows, task),
        "row": (rows.replace("sky", "sea"), task),
        "asks": (rows, task.replace("What", "Which")),
    }
    for name, (some_rows, some_task) in copies.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text(some_rows)
        (tmp_path / name / "colours.yaml").write_text(some_task.replace(str(tasks), str(tmp_path / name)))
    assert digest(tmp_path / "same") == digest(tasks)
    others = [
        digest(tasks),
        digest(tasks, 3),
        digest(tasks, num_fewshot=1),
        digest(tmp_path / "row"),
        digest(tmp_path / "asks"),
    ]
    assert len(set(others)) == 5


class Scripted(TableEngine):
    """An engine that answers every prompt with the same tokens, and remembers how many were asked for."""

    def __init__(self, answer: Sequence[int]) -> None:
        super().__init__(np.zeros((320, 320)), make_tokenizer())
        self.answer, self.asked = list(answer), []

    def generate(self, batch: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        self.asked.append(max_new_tokens)
        done = sum(self.asked[:-1])
        return [self.answer[done : done + max_new_tokens] for _ in batch]


@pytest.mark.parametrize(
    ("text", "until", "expected", "asked"),
    [
        ("a" * 30, ["b"], "a" * 30, [32]),
        ("a" * 200, ["b"], "a" * 150, [32, 32, 64, 22]),
        ("a" * 40 + "bc" + "a" * 200, ["x", "bc"], "a" * 40, [32, 32]),
        ("a<|user|>a" + "a" * 200, ["<|user|>"], "a", [32]),
    ],
    ids=["ends", "is-cut", "stop-text", "special-token"],
)
def test_answers_end_at_stop_texts(text: str, until: list[str], expected: str, asked: list[int]) -> None:
    """An engine of somebody else is asked for pieces, and no longer once a stop text has come."""
    from lm_eval.api.instance import Instance

    from ftreg.evaluation.harness.model import EngineModel

    tokenizer = make_tokenizer()
    parts = re.split(r"(<\|user\|>)", text)
    tokens = [token for part in parts for token in ([part] if part.startswith("<") else part)]
    engine = Scripted(tokenizer.convert_tokens_to_ids(tokens))
    request = Instance("generate_until", {}, ("?", {"until": until, "max_gen_toks": 150}), 0)
    assert EngineModel(engine).generate_until([request]) == [expected]
    assert engine.asked == asked


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("remote", InputError, "the data of remote is on the Hugging Face Hub, which cannot be reached"),
        ("lost", InputError, "lost cannot be loaded: FileNotFoundError: .*exist.jsonl"),
        ("sampled", InputError, "sampled cannot be run: engines answer greedily, without do_sample, num_beams"),
        ("unsafe", InputError, "unsafe runs code that the model writes"),
        ("long", InputError, "answers of 256 tokens leave no room for a prompt in a context of 256 tokens"),
        ("broken", FtregError, "broken (cannot be loaded|failed in lm-eval): UndefinedError"),
    ],
)
def test_tasks_that_cannot_be_run(
    name: str, error: type[FtregError], said: str, suite: Callable[..., SuiteRun], base: Version, registry: Registry
) -> None:
    """Each says why, and nothing is recorded."""
    with pytest.raises(error, match=said):
        suite(base.ref, name)
    assert not [one for one in registry.evidence(base.ref) if one.type == "suite" and one.body["name"] == name]


def test_unknown_names(suite: Callable[..., SuiteRun], base: Version, registry: Registry, tmp_path: Path) -> None:
    """A task, a setting, a folder and a model that do not exist are errors, with the nearest names."""
    with pytest.raises(UnknownName, match=r"no task of lm-eval named 'hellaswagg'\n.*hellaswag"):
        suite(base.ref, "colours,hellaswagg")
    with pytest.raises(RecipeError, match=r"lm-eval.num_fewshots: unknown key.*\n.*num_fewshot"):
        suite(base.ref, "colours", {"lm-eval.num_fewshots": 1})
    with pytest.raises(InputError, match="'rouge' is not a setting of suite lm-eval"):
        suite(base.ref, "colours", {"rouge.stemmer": True})
    dataset = next(version for version in registry.list(limit=None) if version.kind == "dataset")
    with pytest.raises(InputError, match="is a dataset, not a model"):
        suite(dataset.ref, "colours")
    with pytest.raises(InputError, match="is not a folder"):
        run_suite(base.ref, "lm-eval:colours", tasks=tmp_path / "none", registry=registry)


def test_command(registry: Registry, base: Version, tasks: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It prints a table, or JSON alone on standard output, and nothing that lm-eval says."""
    arguments = ["--home", str(registry.home), "eval", base.ref, "--suite", "lm-eval:colours", "--tasks", str(tasks)]
    with pytest.raises(SystemExit):
        main([*arguments, "--limit", "5"])
    shown = capfd.readouterr()
    assert "colours  1.5" in shown.out
    assert "acc_norm" in shown.out
    assert "higher" in shown.out
    assert not [word for word in ("Tokenizing", "Building", "Generating", "%|") if word in shown.out + shown.err]
    with pytest.raises(SystemExit):
        main([*arguments, "--limit", "5", "--json", "--again"])
    facts = json.loads(capfd.readouterr().out)
    assert (facts["suite"], facts["limit"], facts["tasks"][0]["figures"][0]["metric"]) == ("lm-eval", 5, "acc")
