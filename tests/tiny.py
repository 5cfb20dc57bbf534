"""Tiny models and real small text for the tests; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

TEXTS = [
    "How do I reset my password? Open Settings, choose Security and follow the link we send you.",
    "Where can I see my invoices? All invoices are listed under Billing.",
    "The app does not start. Please update to the newest version and try again.",
    "Can I add more people to my team? Yes, invite them from the Members page.",
] * 8

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_tokenizer(*, chat: bool = True):
    """Train a byte-level BPE tokenizer of 320 tokens with chat markers, an end token and a pad token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    if chat:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


WINDOW = 32
"""Window of attention of the tiny models that have one."""

_ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_FAMILIES = {
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": {"sliding_window": WINDOW},
    "gemma2": {**_ALTERNATING, "query_pre_attn_scalar": 32},
    "gemma3_text": {**_ALTERNATING, "query_pre_attn_scalar": 32},
}


def make_model(
    folder: Path, architecture: str = "llama", *, tied: bool = False, seed: int = 0, chat: bool = True, **more: object
) -> Path:
    """Write an untrained checkpoint (hidden 64, 2 layers, vocabulary 320) with its tokenizer; return its folder.

    ``architecture`` is ``llama``, ``gpt2``, ``qwen2``, ``qwen3`` or one of ``_FAMILIES``; ``more`` goes into the
    configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shared = {
        "vocab_size": 320,
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    if architecture == "gpt2":
        sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256}
    else:
        sizes = {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "max_position_embeddings": 256, "head_dim": 32,
        }  # fmt: skip
    if architecture in ("qwen2", "phi3"):
        sizes.pop("head_dim")
    sizes |= _FAMILIES.get(architecture, {}) | more
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes, **shared))
    model.save_pretrained(folder)
    make_tokenizer(chat=chat).save_pretrained(folder)
    return folder
