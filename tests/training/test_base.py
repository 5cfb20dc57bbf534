"""Untrained bases, and the facts of model folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers
from pydantic import ValidationError

from ftreg.core.errors import DataError, InputError
from ftreg.core.types import Example, Message
from ftreg.data import IGNORED, Encoder
from ftreg.models.facts import describe
from ftreg.models.tokenizer import load_tokenizer
from ftreg.training import BaseConfig, create_base
from tests.tiny import TEXTS

SIZES = {
    "hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate_size": 128, "vocab_size": 320,
    "max_positions": 128,
}  # fmt: skip
CREATE = """
import sys, json
from pathlib import Path
from ftreg.training import BaseConfig, create_base
from tests.tiny import TEXTS
create_base(Path(sys.argv[1]), TEXTS, BaseConfig(**json.loads(sys.argv[2])), seed=3)
"""


def files(folder):
    """The bytes of each file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base made in this process."""
    folder = tmp_path_factory.mktemp("base")
    create_base(folder, TEXTS, BaseConfig(**SIZES), seed=3)
    return folder


def test_another_process_makes_the_same_bytes(tmp_path, base):
    """A base made in a process with other hashes and more threads has the same bytes; another seed has others."""
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "3"}
    subprocess.run([sys.executable, "-c", CREATE, str(tmp_path), json.dumps(SIZES)], check=True, env=environment)
    assert files(tmp_path) == files(base)
    create_base(tmp_path / "other", TEXTS, BaseConfig(**SIZES), seed=4)
    assert files(tmp_path / "other")["model.safetensors"] != files(base)["model.safetensors"]


def test_base_loads_and_is_what_was_asked_for(base):
    """The checkpoint loads with plain transformers, with the requested sizes and tied weights, and generates."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.vocab_size) == (64, 2, 320)
    assert len(tokenizer) == 320
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    prompt = torch.tensor([tokenizer("How")["input_ids"]])
    assert model.generate(prompt, max_new_tokens=3, do_sample=False, eos_token_id=None).shape[1] == prompt.shape[1] + 3


def test_tokenizer_writes_every_text_and_marks_answers(base):
    """Any text survives encoding and decoding, and the template labels the answer and its end, no more."""
    tokenizer = load_tokenizer(base)
    for text in ("Grüße, 世界! 🎉\n\tdef f(x): return x", "  two  spaces ", "I ' m here ."):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    example = Example(messages=(Message("user", "Where?"), Message("assistant", "Here.")))
    encoded = Encoder(tokenizer, max_length=64).encode(example)
    labelled = [label for label in encoded.labels if label != IGNORED]
    assert tokenizer.decode(labelled) == "Here.<|end|>"
    assert tokenizer.decode(encoded.input_ids) == "<|user|> Where?<|end|><|assistant|>Here.<|end|>"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hidden_size": 72}, "hidden_size\n.*must be a multiple of 32, at least 32, not 72"),
        ({"vocab_size": 500}, "vocab_size\n.*must be a multiple of 32, at least 288, not 500"),
        ({"vocab_size": 256}, "vocab_size\n.*at least 288, not 256"),
        ({"heads": 3}, "heads=3 does not divide hidden_size=64"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads=3 does not divide heads=4"),
        ({"heads": 4, "kv_heads": 1}, "must be a multiple of 32, not 16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(setting, message):
    """Sizes that the model or the 4-bit kernels cannot have are errors that say why."""
    with pytest.raises(ValidationError, match=message):
        BaseConfig(**{**SIZES, **setting})


def test_too_little_text_is_refused(tmp_path):
    """Texts that cannot fill the vocabulary are an error with a size that they can fill."""
    with pytest.raises(DataError, match="the texts give only"):
        create_base(tmp_path, ["a b c"], BaseConfig(**SIZES))


def test_facts_of_a_checkpoint(base):
    """Facts are read from the files, are the same each time, and count the stored parameters."""
    facts = describe(base)
    assert facts == describe(base)
    assert facts["architecture"] == "LlamaForCausalLM"
    assert facts["tied_embeddings"] is True
    assert (facts["vocab_size"], facts["eos_token_id"], facts["pad_token_id"], facts["dtype"]) == (320, 1, 0, "f32")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert len(facts["chat_template"]) == 64


def test_facts_need_no_torch(base):
    """Describing a folder imports neither torch nor transformers."""
    code = (
        "import sys; from pathlib import Path; from ftreg.models.facts import describe; describe(Path(sys.argv[1]));"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(base)], check=True)


def test_facts_of_other_folders(tmp_path):
    """A folder without a model, or with damaged files, is an input error that names the file."""
    with pytest.raises(InputError, match="not a model folder"):
        describe(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="does not hold a JSON object"):
        describe(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    for content in (b"", b"\xff" * 16, b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{x"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="not a complete safetensors file"):
            describe(tmp_path)
