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

WINDOW = 32
"""Window of attention of the tiny models that have one."""

_COMMON = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 256,
}  # fmt: skip
_GROUPED = {**_COMMON, "num_key_value_heads": 1}
_ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
SIZES = {
    "deepseek_v3": {
        **_COMMON, "num_key_value_heads": 2, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1, "q_lora_rank": 32,
        "kv_lora_rank": 32, "qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 32,
    },
    "falcon": _COMMON,
    "gemma2": {**_GROUPED, **_ALTERNATING, "head_dim": 32, "query_pre_attn_scalar": 32},
    "gemma3_text": {**_GROUPED, **_ALTERNATING, "head_dim": 32, "query_pre_attn_scalar": 32},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256},
    "gpt_oss": {
        **_GROUPED, **_ALTERNATING, "head_dim": 32, "num_local_experts": 4, "rope_parameters": {"rope_type": "default"},
    },
    "jamba": {
        **_GROUPED, "num_experts": 1, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
    },
    "llama": {**_GROUPED, "head_dim": 32},
    "llama4_text": {**_GROUPED, "head_dim": 32, "num_local_experts": 4, "intermediate_size_mlp": 128},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "time_step_rank": 4},
    "mistral": {**_GROUPED, "head_dim": 32, "sliding_window": WINDOW},
    "mixtral": {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": {**_GROUPED, "sliding_window": WINDOW},
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 32},
    "rwkv": {"hidden_size": 64, "attention_hidden_size": 64, "num_hidden_layers": 2},
}  # fmt: skip
"""The sizes of a tiny model of each type."""


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


def make_model(
    folder: Path, architecture: str = "llama", *, tied: bool = False, seed: int = 0, chat: bool = True, **more: object
) -> Path:
    """Write an untrained checkpoint (hidden 64, 2 layers, vocabulary 320) with its tokenizer; return its folder.

    ``architecture`` is a model type of transformers in ``SIZES``; ``more`` goes into the configuration.
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
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(architecture, **{**SIZES[architecture], **more}, **shared)
    )
    model.save_pretrained(folder)
    make_tokenizer(chat=chat).save_pretrained(folder)
    return folder
