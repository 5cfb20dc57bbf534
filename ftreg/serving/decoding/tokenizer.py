"""The tokenizer of a served model: turns prompts into tokens, and tokens into text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftreg.core.types import Message, ServedModel
from ftreg.serving.errors import bad_request


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation, rendered with the model's chat template."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class UserPrompt:
    """One user message: rendered with the chat template if the model has one, otherwise taken as plain text."""

    text: str


Prompt = str | Sequence[int] | ChatPrompt | UserPrompt
"""Plain text, token ids, a conversation, or a user message."""


class Tokenizer:
    """Encodes and decodes for one model; safe to use from several threads.

    Attributes:
        context: Largest number of tokens of prompt and completion together.
        eos: Token ids that end a completion.
        special: Token ids without text, which are left out of completions.
    """

    def __init__(self, model: ServedModel) -> None:
        self.context = model.context
        self.eos = model.ends
        self._tokenizer = model.tokenizer
        added = getattr(model.tokenizer, "added_tokens_decoder", {})
        self.special = frozenset(model.tokenizer.all_special_ids) | {
            id_ for id_, token in added.items() if token.special
        }
        self._vocabulary = len(model.tokenizer)
        # The first use drops the padding and truncation that a tokenizer was saved with; later uses, from several
        # threads, then change nothing in it.
        self._encode("a", special=True)

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the token ids of ``prompt``.

        Raises:
            ApiError: The prompt is empty, has token ids outside of the vocabulary, or the chat template is missing or
                refuses it (400).
        """
        if isinstance(prompt, UserPrompt):
            prompt = ChatPrompt((Message("user", prompt.text),)) if self._tokenizer.chat_template else prompt.text
        if isinstance(prompt, ChatPrompt):
            ids = self._encode(self._render(prompt), special=False)
        elif isinstance(prompt, str):
            ids = self._encode(prompt, special=True)
        else:
            ids = self._check(prompt)
        if not ids:
            raise bad_request("the prompt is empty", param="prompt")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _encode(self, text: str, *, special: bool) -> list[int]:
        # With `verbose`, transformers would warn about prompts longer than the context; ftreg refuses those itself.
        encoded = self._tokenizer(
            text, add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )
        ids: list[int] = encoded["input_ids"]
        return ids

    def _render(self, prompt: ChatPrompt) -> str:
        if not self._tokenizer.chat_template:
            raise bad_request(
                "this model has no chat template; use /v1/completions", param="messages", code="no_chat_template"
            )
        turns = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
        try:
            text: str = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template can raise anything
            raise bad_request(f"the model's chat template refuses these messages: {error}", param="messages") from error
        return text

    def _check(self, ids: Sequence[int]) -> list[int]:
        """Refuse ids outside of the vocabulary: they would fail the other rows of the batch too."""
        for token in ids:
            if not 0 <= token < self._vocabulary:
                raise bad_request(f"there is no token {token}; ids are below {self._vocabulary}", param="prompt")
        return list(ids)
