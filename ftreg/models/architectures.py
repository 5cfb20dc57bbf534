"""Architectures: which models ftreg works with, decided by their configuration, without torch or transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftreg.core.errors import InputError
from ftreg.models.files import read_json

ENCODERS = frozenset(
    {
        "bart", "bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "flaubert", "mbart",
        "megatron-bert", "mvp", "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
        "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod",
    }
)  # fmt: skip
"""Model types that read a text in both directions unless their configuration sets ``is_decoder`` (XLM: ``causal``)."""

WITH_TEXT_PART = frozenset({"dots3_note", "emu3", "llama4", "mllama", "qwen3_5", "qwen3_5_moe", "qwen4_exp"})
"""Model types for text and images of which transformers loads the text part, as a causal language model."""

_CAUSAL = ("ForCausalLM", "LMHeadModel", "ModelWithLMHead")
_OTHERS = {
    "ForMaskedLM": "a masked language model, which predicts a token from those on both sides",
    "ForPreTraining": "an encoder, which reads a text in both directions",
    "ForSequenceClassification": "a classifier of texts",
    "ForTokenClassification": "a classifier of tokens",
    "ForMultipleChoice": "a classifier",
    "ForQuestionAnswering": "a model that marks answers in a text",
    "MTModel": "an encoder-decoder",
    "EncoderDecoderModel": "an encoder-decoder",
    "Model": "a model without an output head",
}  # what the end of an architecture's name means; the first one that fits
_OTHER_INPUTS = {"vision_config": "images", "audio_config": "sound"}


def check_causal(folder: Path) -> None:
    """Raise ``InputError`` if the checkpoint in ``folder`` is not a causal language model.

    Others may load as one and train, but to something useless: a masked language model sees the tokens that it should
    predict.
    """
    config = read_json(folder / "config.json")
    other = _other_kind(config)
    if other is not None:
        raise InputError(
            f"{_name(config)} is {other}; ftreg works with causal language models only",
            where=str(folder),
            hint="Give one whose architecture ends with ForCausalLM or LMHeadModel, such as a Llama, Qwen or GPT-2.",
        )


def _name(config: Mapping[str, Any]) -> str:
    """Return the architecture; without one, the model type."""
    return str(next(iter(config.get("architectures") or []), config.get("model_type") or "a model without a type"))


def _other_kind(config: Mapping[str, Any]) -> str | None:
    """Say what a model is that is not a causal language model; None if it is one."""
    if config.get("is_encoder_decoder"):
        return "an encoder-decoder"
    architecture = str(next(iter(config.get("architectures") or []), ""))
    others = [inputs for part, inputs in _OTHER_INPUTS.items() if part in config]
    if architecture.endswith("ForConditionalGeneration") or (others and not architecture):
        kind = f"a model for text and {' and '.join(others) or 'other inputs'}"
        return None if config.get("model_type") in WITH_TEXT_PART else kind
    if architecture and not architecture.endswith(_CAUSAL):
        return next((kind for end, kind in _OTHERS.items() if architecture.endswith(end)), "of another kind")
    if config.get("model_type") in ENCODERS and not (config.get("is_decoder") or config.get("causal")):
        return "an encoder, since its configuration does not set is_decoder"
    return None
