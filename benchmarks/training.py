"""LoRA training: real tokens per second and peak memory of ftreg beside transformers' Trainer and TRL's SFTTrainer.

Every contender runs in a process of its own, in one environment, on the same model (Llama, 6 layers, hidden 384, 32k
vocabulary, seeded), the same token ids and labels (docstrings of the standard library, the second half of each learnt),
the same LoRA (all linear layers, rank 16), batch size, optimizer, learning rate and precision (fp32). Real tokens are
tokens that are not padding. The loss of each trained model on the same held-out rows shows that all did the same work.

    python benchmarks/training.py [--steps 24] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

from harness import ENVIRONMENT, ROOT, finish, hardware, run_contender, write_result

PEERS = ROOT / ".benchenv-training"

CONTENDERS = {
    "Trainer": {"library": "transformers"},
    "Trainer, grouped by length": {"library": "transformers", "train_sampling_strategy": "group_by_length"},
    "TRL, defaults": {"library": "trl"},
    "TRL, grouped by length": {"library": "trl", "train_sampling_strategy": "group_by_length"},
    "TRL, grouped, no checkpointing": {
        "library": "trl",
        "train_sampling_strategy": "group_by_length",
        "gradient_checkpointing": False,
    },
    "TRL, packed, no checkpointing": {"library": "trl", "packing": True, "gradient_checkpointing": False},
    "ftreg, grouped (default)": {"library": "ftreg", "batching": "grouped"},
    "ftreg, packed": {"library": "ftreg", "batching": "packed"},
}
OWN = "ftreg, grouped (default)"
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")
LEARNING_RATE = 1e-3
BATCH = 8
MAX_LENGTH = 512


def prepare(folder: Path) -> None:
    """Write the model, its tokenizer and the examples that all contenders use."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from ftreg.core.types import Example, Message
    from ftreg.data import Encoder, stdlib_docstrings
    from ftreg.models.tokenizer import load_tokenizer
    from ftreg.training import BaseConfig, create_base

    texts = [example.text or "" for example in stdlib_docstrings()]
    create_base(folder, texts, BaseConfig(vocab_size=8192, hidden_size=64, layers=1, heads=2), 0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=load_tokenizer(folder).eos_token_id,
        pad_token_id=load_tokenizer(folder).pad_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    halves = [(text[: text.find(" ", len(text) // 2)], text[text.find(" ", len(text) // 2) + 1 :]) for text in texts]
    rows = [(a, b) for a, b in halves if len(a) > 20 and len(b) > 20][::3]
    encoder = Encoder(load_tokenizer(folder), max_length=MAX_LENGTH)
    encoded = encoder.encode_batch([Example(messages=(Message("user", a), Message("assistant", b))) for a, b in rows])
    # A row of which the cut leaves nothing to learn is left out for all.
    kept = [(row, item) for row, item in zip(rows, encoded, strict=True) if item.labelled]
    rows = [row for row, _ in kept]
    examples = [{"input_ids": item.input_ids, "labels": item.labels} for _, item in kept]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "encoded.json").write_text(json.dumps(examples))


def contend(settings: dict[str, Any], folder: Path, steps: int) -> dict[str, Any]:
    """Train as one contender, in this process, and return what it did."""
    import torch

    torch.manual_seed(0)
    rows = json.loads((folder / "encoded.json").read_text())
    train, held_out = rows[64:], rows[:64]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = {"transformers": run_trainer, "trl": run_trl, "ftreg": run_ftreg}[settings.pop("library")]
    meter = Meter(json.loads((folder / "config.json").read_text())["pad_token_id"])
    model = run(settings, folder, train, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "tokens": meter.tokens,
        "seconds": meter.seconds,
        "tokens_per_second": meter.tokens / meter.seconds,
        "peak_rss_bytes": peak * 1024,
        "rss_before_bytes": before * 1024,
        "held_out_loss": held_out_loss(model, held_out),
    }


def load_model(folder: Path) -> Any:
    """The base in fp32, with a fresh seeded LoRA on all its linear layers."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def lora() -> Any:
    """The adapter's configuration, the same for all."""
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def arguments(steps: int) -> dict[str, Any]:
    """Trainer arguments, the same for all."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": BATCH,
        "max_steps": steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": steps,
        "seed": 0,
        "disable_tqdm": True,
    }


class Meter:
    """Counts the real tokens of every batch and times the steps after the first two, which warm up.

    All contenders, ftreg too, train through ``transformers.Trainer.training_step``: that is where it measures.
    """

    def __init__(self, pad: int) -> None:
        import transformers

        self.tokens, self.step, self.started, self.ended = 0, 0, 0.0, 0.0
        inner = transformers.Trainer.training_step

        def training_step(trainer: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            if self.step == 2:
                self.started = time.perf_counter()
            count = int((inputs["input_ids"] != pad).sum())
            loss = inner(trainer, model, inputs, *rest, **named)
            self.step += 1
            if self.step > 2:
                self.tokens += count
                self.ended = time.perf_counter()
            return loss

        transformers.Trainer.training_step = training_step

    @property
    def seconds(self) -> float:
        """Seconds of the steps that count."""
        return self.ended - self.started


def run_trainer(settings: dict[str, Any], folder: Path, rows: list[dict], steps: int) -> Any:
    """Plain transformers Trainer."""
    from peft import get_peft_model
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = get_peft_model(load_model(folder), lora())
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments(steps), **settings),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.train()
    return model


def run_trl(settings: dict[str, Any], folder: Path, rows: list[dict], steps: int) -> Any:
    """TRL's SFTTrainer."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    masked = [
        {"input_ids": row["input_ids"], "completion_mask": [int(label != -100) for label in row["labels"]]}
        for row in rows
    ]
    trainer = SFTTrainer(
        model=load_model(folder),
        args=SFTConfig(**arguments(steps), max_length=MAX_LENGTH, completion_only_loss=True, **settings),
        train_dataset=Dataset.from_list(masked),
        processing_class=tokenizer,
        peft_config=lora(),
    )
    trainer.train()
    return trainer.model


def run_ftreg(settings: dict[str, Any], folder: Path, rows: list[dict], steps: int) -> Any:
    """The method `lora` of ftreg, through the same job that `ftreg train` gives it."""
    from peft import PeftModel

    from ftreg.core.recipe import TrainConfig
    from ftreg.core.types import Example, Message, Splits, TrainJob
    from ftreg.plugins.methods.config import LoraConfig
    from ftreg.plugins.methods.lora import train

    texts = json.loads((folder / "rows.json").read_text())
    examples = [Example(messages=(Message("user", a), Message("assistant", b))) for a, b in texts][64:]
    assert len(examples) == len(rows)
    scratch = Path(tempfile.mkdtemp())
    folders = {name: scratch / name for name in ("staging", "report", "scratch")}
    for path in folders.values():
        path.mkdir()
    job = TrainJob(
        name="benchmark",
        base=folder,
        data=Splits(train=examples),
        config=LoraConfig(rank=16, alpha=32, target_modules="all-linear"),
        train=TrainConfig(
            max_steps=steps,
            epochs=1000,
            batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            schedule="constant",
            max_length=MAX_LENGTH,
            precision="fp32",
            device="cpu",
            **settings,
        ),
        **folders,
    )
    train(job)
    return PeftModel.from_pretrained(load_model(folder), folders["staging"])


def held_out_loss(model: Any, rows: list[dict]) -> float:
    """Mean loss per learnt token on the held-out rows, computed the same way for all."""
    import torch

    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for row in rows:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, :-1].flatten(0, 1).float()
            total += float(torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum"))
            count += int((labels[:, 1:] != -100).sum())
    return total / count


def install() -> Path:
    """Create the environment that all contenders run in, once; return its interpreter."""
    python = PEERS / "bin" / "python"
    if not (PEERS / ".ready").exists():
        venv.create(PEERS, with_pip=True)
        constraints = ROOT / "constraints.txt"
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "-c", constraints, "trl==1.16.0", "-e", f"{ROOT}[train]"], check=True
        )
        (PEERS / ".ready").touch()
    return python


def main() -> None:
    """Run every contender in turn, several times over, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.folder)
        return
    if options.contender:
        result = contend(dict(CONTENDERS[options.contender]), options.folder, options.steps)
        finish(result)
        return
    python = install()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        script = str(Path(__file__).resolve())
        subprocess.run([python, script, "--prepare", "--folder", folder], check=True, env=ENVIRONMENT)
        for _ in range(options.repeats):
            for name in CONTENDERS:
                command = [python, script, "--contender", name, "--folder", folder, "--steps", str(options.steps)]
                runs[name].append(run_contender(name, command))
                last = runs[name][-1]
                speed, peak = last["tokens_per_second"], last["peak_rss_bytes"] / 1e9
                print(f"{name:34} {speed:8.0f} tok/s  {peak:5.2f} GB  loss {last['held_out_loss']:.4f}", flush=True)
        rows = json.loads((Path(folder) / "encoded.json").read_text())
    lengths = sorted(len(row["input_ids"]) for row in rows)
    versions = subprocess.run(
        [python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True
    ).stdout.split()
    result = {
        "hardware": hardware(),
        "versions": [v for v in versions if v.split("==")[0] in LIBRARIES],
        "steps": options.steps,
        "batch_size": BATCH,
        "rows": len(rows),
        "length_median": statistics.median(lengths),
        "length_max": lengths[-1],
        "learnt_share": sum(x != -100 for row in rows for x in row["labels"]) / sum(lengths),
        "runs": runs,
    }
    write_result("training-lora-cpu.json", result, "training.py", report(result))


def report(result: dict[str, Any]) -> str:
    """The result as a table: medians, and what ftreg's default does in ratio to each."""
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in result["runs"].items()
    }
    own = medians[OWN]
    lines = [
        f"{result['hardware']['cpu']}, {result['hardware']['cores']} cores; {', '.join(result['versions'])}; "
        f"{len(result['runs'][OWN])} runs each, in turn, of {result['steps']} steps (the first two not counted); "
        f"{result['rows']} rows, median {result['length_median']:.0f} tokens, longest {result['length_max']}, "
        f"{result['learnt_share']:.0%} of the tokens learnt.",
        "",
        "| contender | real tokens/s | ftreg's default is faster by | peak memory, GB | held-out loss |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, row in medians.items():
        ratio = own["tokens_per_second"] / row["tokens_per_second"]
        lines.append(
            f"| {name} | **{row['tokens_per_second']:.0f}** | {ratio:.1f}x | {row['peak_rss_bytes'] / 1e9:.2f} "
            f"| {row['held_out_loss']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
