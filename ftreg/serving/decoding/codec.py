"""The codec of a served model: from prompts to tokens, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftreg.core.types import Message, ServedModel
from ftreg.serving.errors import bad_request


@dataclass(frozen=True)
class Chat:
    """A prompt that the model's chat template makes text of."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Question:
    """A prompt that is a chat of one turn where the model has a chat template, and plain text elsewhere."""

    text: str


Prompt = str | Sequence[int] | Chat | Question


class Codec:
    """Encodes and decodes for one model.

    Attributes:
        context: Most tokens of prompt and answer together.
        ends: Token ids that end an answer.
        silent: Token ids without text.
    """

    def __init__(self, model: ServedModel) -> None:
        self.context = model.context
        self.ends = model.ends
        self._tokenizer = model.tokenizer
        added = getattr(model.tokenizer, "added_tokens_decoder", {})
        self.silent = frozenset(model.tokenizer.all_special_ids) | {
            id_ for id_, token in added.items() if token.special
        }
        self._vocabulary = len(model.tokenizer)
        # A tokenizer drops the padding and truncation that it was saved with at its first use; later uses by several
        # threads then change nothing in it.
        self._encode("a", special=True)

    def encode(self, prompt: Prompt) -> list[int]:
        """Return a prompt's token ids; raise ``ApiError`` for one that the model cannot read."""
        if isinstance(prompt, Question):
            prompt = Chat((Message("user", prompt.text),)) if self._tokenizer.chat_template else prompt.text
        if isinstance(prompt, Chat):
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
        # Without `verbose`, transformers warns of prompts beyond the context, which are refused here.
        encoded = self._tokenizer(
            text, add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )
        ids: list[int] = encoded["input_ids"]
        return ids

    def _render(self, chat: Chat) -> str:
        if not self._tokenizer.chat_template:
            raise bad_request(
                "this model has no chat template; use /v1/completions", param="messages", code="no_chat_template"
            )
        turns = [{"role": turn.role, "content": turn.content} for turn in chat.messages]
        try:
            text: str = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # what a template raises is its author's choice
            raise bad_request(f"the model's chat template refuses these messages: {error}", param="messages") from error
        return text

    def _check(self, ids: Sequence[int]) -> list[int]:
        """Refuse ids that the model does not have; in a batch they would fail its neighbours too."""
        for token in ids:
            if not 0 <= token < self._vocabulary:
                raise bad_request(f"there is no token {token}; ids are below {self._vocabulary}", param="prompt")
        return list(ids)
