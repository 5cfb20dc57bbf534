"""Replies: renders completions as JSON objects and stream chunks in OpenAI's formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class TokenUsage:
    """Number of tokens of a request: of its prompts, and of its completions."""

    prompt: int
    completion: int

    def to_dict(self) -> dict[str, int]:
        """Return OpenAI's ``usage`` object."""
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


@dataclass(frozen=True)
class ReplyHead:
    """The fields that all chunks of a reply share.

    Attributes:
        id: Id of the request.
        created: Time of arrival, in Unix seconds.
        ref: The version that answers.
        digest: Its digest.
    """

    id: str
    created: int
    ref: str
    digest: str


@dataclass(frozen=True)
class Choice:
    """A whole completion: its text, and why it ended (``stop`` or ``length``)."""

    text: str
    finish: str


class ChatRenderer:
    """Renders replies of ``/v1/chat/completions``."""

    def reply(self, head: ReplyHead, choices: Sequence[Choice], usage: TokenUsage) -> bytes:
        """Return a whole reply."""
        listed = [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": None,
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(choices)
        ]
        return to_json({**self._head(head, "chat.completion"), "choices": listed, "usage": usage.to_dict()})

    def begin(self, index: int) -> dict[str, Any] | None:
        """Return the choice that begins a completion's stream."""
        return self._delta(index, {"role": "assistant", "content": ""}, None)

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """Return a choice with new text."""
        return self._delta(index, {"content": text}, None)

    def end(self, index: int, finish: str) -> dict[str, Any]:
        """Return the choice that ends a completion's stream."""
        return self._delta(index, {}, finish)

    def stream_head(self, head: ReplyHead) -> dict[str, Any]:
        """Return the fields that all chunks share."""
        return self._head(head, "chat.completion.chunk")

    def _delta(self, index: int, delta: Mapping[str, str], finish: str | None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _head(self, head: ReplyHead, kind: str) -> dict[str, Any]:
        return _head(head, "chatcmpl", kind)


class CompletionRenderer:
    """Renders replies of ``/v1/completions``."""

    def reply(self, head: ReplyHead, choices: Sequence[Choice], usage: TokenUsage) -> bytes:
        """Return a whole reply."""
        listed = [self._choice(index, choice.text, choice.finish) for index, choice in enumerate(choices)]
        return to_json({**self.stream_head(head), "choices": listed, "usage": usage.to_dict()})

    def begin(self, _index: int) -> dict[str, Any] | None:
        """Return None: in this format, no chunk begins a completion's stream."""
        return None

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """Return a choice with new text."""
        return self._choice(index, text, None)

    def end(self, index: int, finish: str) -> dict[str, Any]:
        """Return the choice that ends a completion's stream."""
        return self._choice(index, "", finish)

    def stream_head(self, head: ReplyHead) -> dict[str, Any]:
        """Return the fields that all chunks share."""
        return _head(head, "cmpl", "text_completion")

    def _choice(self, index: int, text: str, finish: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


class GenerateRenderer:
    """Renders replies of ``/api/v1/generate``.

    Args:
        model_id: The model that the client asked for.
    """

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id

    def reply(self, head: ReplyHead, choices: Sequence[Choice], usage: TokenUsage) -> bytes:
        """Return a whole reply."""
        return to_json(
            {
                "text": choices[0].text,
                "finish_reason": choices[0].finish,
                "model_id": self._model_id,
                "variant": head.ref,
                "digest": head.digest,
                "request_id": head.id,
                "usage": usage.to_dict(),
            }
        )


StreamRenderer = ChatRenderer | CompletionRenderer
"""Renders whole replies and streams."""


def sse_event(content: Mapping[str, Any]) -> bytes:
    """Return a server-sent event (HTML Living Standard, section 9.2)."""
    return b"data: " + to_json(content) + b"\n\n"


def to_json(content: Mapping[str, Any]) -> bytes:
    """Return ``content`` as compact JSON in UTF-8."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _head(head: ReplyHead, prefix: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{head.id}",
        "object": kind,
        "created": head.created,
        "model": head.ref,
        "system_fingerprint": head.digest,
    }
