"""Architectures: only causal language models are let in, whatever would load as one."""

from __future__ import annotations

import json

import pytest
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from ftreg.core.errors import InputError
from ftreg.models.architectures import ENCODERS, check_causal

CAUSAL = [
    {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
    {"architectures": ["MambaForCausalLM"], "model_type": "mamba"},
    {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"},
    {"architectures": ["BertLMHeadModel"], "model_type": "bert", "is_decoder": True},
    {"model_type": "qwen3"},
]
OTHERS = [
    ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "a masked language model"),
    ({"architectures": ["BertLMHeadModel"], "model_type": "bert"}, "does not set is_decoder"),
    ({"architectures": ["XLNetLMHeadModel"], "model_type": "xlnet"}, "does not set is_decoder"),
    ({"model_type": "roberta"}, "does not set is_decoder"),
    (
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True},
        "an encoder-decoder",
    ),
    ({"model_type": "t5", "is_encoder_decoder": True}, "an encoder-decoder"),
    ({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}, "a classifier"),
    ({"architectures": ["LlamaModel"], "model_type": "llama"}, "without an output head"),
    ({"architectures": ["ViTForImageClassification"], "model_type": "vit"}, "of another kind"),
]


@pytest.mark.parametrize("config", CAUSAL, ids=str)
def test_causal_language_models_pass(config, tmp_path):
    """Causal language models pass, also encoders that are configured as decoders."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_causal(tmp_path)


@pytest.mark.parametrize(("config", "reason"), OTHERS, ids=str)
def test_other_models_are_refused(config, reason, tmp_path):
    """Models of other kinds are refused with what they are."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=reason):
        check_causal(tmp_path)


def test_encoders_are_those_of_transformers():
    """Every model type that transformers has both a causal and a masked class for is known to be an encoder."""
    both = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() & MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    assert both <= ENCODERS


def test_causal_classes_of_transformers_pass(tmp_path):
    """The causal classes of transformers pass by their names, as decoders."""
    for model_type, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        if model_type != "bert-generation":  # the decoding half of a translation model
            config = {"architectures": [name], "model_type": model_type, "is_decoder": True}
            (tmp_path / "config.json").write_text(json.dumps(config))
            check_causal(tmp_path)
