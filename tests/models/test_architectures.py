"""Architectures: only causal language models are let in, whatever would load as one."""

from __future__ import annotations

import json

import pytest
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from ftreg.core.errors import InputError
from ftreg.models.architectures import ENCODERS, WITH_TEXT_PART, check_causal

CONDITIONAL = "ForConditionalGeneration"

CAUSAL = [
    {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
    {"architectures": ["MambaForCausalLM"], "model_type": "mamba"},
    {"architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4", "vision_config": {}},
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
    (
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "vision_config": {}},
        "a model for text and images",
    ),
    ({"model_type": "qwen2_vl", "vision_config": {}}, "qwen2_vl is a model for text and images"),
    ({"architectures": ["VoxtralForConditionalGeneration"], "audio_config": {}}, "a model for text and sound"),
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


def test_models_with_a_text_part_are_those_of_transformers():
    """Every model type for text and images that transformers has a causal class for is known to have a text part."""
    whole = {key for key, name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items() if name.endswith(CONDITIONAL)}
    text = {key for key, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if not name.endswith(CONDITIONAL)}
    assert whole & text == WITH_TEXT_PART


@pytest.mark.parametrize("model_type", ["llava", "qwen2_vl", "gemma3"])
def test_models_for_text_and_images_are_refused_before_work(model_type, tmp_path):
    """What transformers writes for a model with a vision part is refused by name, and not as a damaged file."""
    config = AutoConfig.for_model(model_type)
    config.architectures = [MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[model_type]]
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"{config.architectures[0]} is a model for text and images"):
        check_causal(tmp_path)


def test_causal_classes_of_transformers_pass(tmp_path):
    """The causal classes of transformers pass by their names, as decoders; those that read images too do not."""
    for model_type, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        # The decoding half of a translation model, and models for text and images that are loaded whole.
        if model_type != "bert-generation" and not name.endswith("ForConditionalGeneration"):
            config = {"architectures": [name], "model_type": model_type, "is_decoder": True}
            (tmp_path / "config.json").write_text(json.dumps(config))
            check_causal(tmp_path)
