"""Bases: an untrained Llama with its own tokenizer, to be pre-trained with method ``full``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from pydantic import Field, ValidationInfo, field_validator, model_validator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ftreg.core.errors import DataError
from ftreg.core.recipe import Config
from ftreg.models.quiet import quiet

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant", "tool")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ ' ' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_MULTIPLE = 32  # all dimensions are multiples of it: 4-bit layers on CPUs and fast kernels need that
# All bytes, the pad and the end token, and the roles, rounded up.
_SMALLEST_VOCABULARY = -(-(256 + 2 + len(ROLES)) // _MULTIPLE) * _MULTIPLE


class BaseConfig(Config):
    """The sizes of an untrained base; the default has 4.3 million parameters."""

    hidden_size: int = Field(256, gt=0, description="width of the model")
    layers: int = Field(4, gt=0, description="number of transformer layers")
    heads: int = Field(4, gt=0, description="attention heads per layer")
    kv_heads: int | None = Field(None, gt=0, description="key and value heads per layer; by default as many as heads")
    intermediate_size: int = Field(704, gt=0, description="width of the feed-forward layers")
    vocab_size: int = Field(4096, gt=0, description="tokens in the vocabulary, special ones included")
    max_positions: int = Field(512, gt=0, description="largest number of tokens in a sequence")
    tied: bool = Field(True, description="share the weights of the input embedding with the output head")

    @field_validator("hidden_size", "intermediate_size", "vocab_size")
    @classmethod
    def _fits_kernels(cls, value: int, info: ValidationInfo) -> int:
        smallest = _SMALLEST_VOCABULARY if info.field_name == "vocab_size" else _MULTIPLE
        if value % _MULTIPLE or value < smallest:
            raise ValueError(f"must be a multiple of {_MULTIPLE}, at least {smallest}, not {value}")
        return value

    @model_validator(mode="after")
    def _heads_fit(self) -> BaseConfig:
        width, heads, kv_heads = self.hidden_size, self.heads, self.kv_heads or self.heads
        if width % heads or width // heads % 2:
            raise ValueError(f"heads={heads} does not divide hidden_size={width} into even parts; 1, 2 and 4 always do")
        if heads % kv_heads:
            raise ValueError(f"kv_heads={kv_heads} does not divide heads={heads}")
        if kv_heads * (width // heads) % _MULTIPLE:
            given = kv_heads * (width // heads)
            raise ValueError(f"kv_heads * hidden_size / heads must be a multiple of {_MULTIPLE}, not {given}")
        return self


def create_base(folder: Path, texts: Iterable[str], config: BaseConfig, seed: int = 0) -> None:
    """Write an untrained checkpoint and its tokenizer into ``folder``; the same inputs give the same bytes.

    Args:
        folder: Where to write.
        texts: Texts to train the tokenizer on.
        config: The sizes.
        seed: Seed of the random weights.

    Raises:
        DataError: The texts have too little variety to fill the vocabulary.
    """
    tokenizer = train_tokenizer(texts, config)
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                hidden_size=config.hidden_size,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.kv_heads,
                intermediate_size=config.intermediate_size,
                vocab_size=config.vocab_size,
                max_position_embeddings=config.max_positions,
                tie_word_embeddings=config.tied,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def train_tokenizer(texts: Iterable[str], config: BaseConfig) -> transformers.PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, with chat markers and a pad token that differs from the end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[PAD, END, *(f"<|{role}|>" for role in ROLES)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < config.vocab_size:
        raise DataError(
            f"the texts give only {tokenizer.get_vocab_size()} tokens, not {config.vocab_size}",
            hint=f"Give more text, or set vocab_size to {tokenizer.get_vocab_size() // _MULTIPLE * _MULTIPLE}.",
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[f"<|{role}|>" for role in ROLES],
        chat_template=CHAT_TEMPLATE,
        model_max_length=config.max_positions,
        clean_up_tokenization_spaces=False,
    )
