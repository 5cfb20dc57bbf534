"""Replies as they go over the wire: answers and chunks of streams, in OpenAI's forms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Usage:
    """Tokens of a request, read and written."""

    prompt: int
    completion: int

    def json(self) -> dict[str, int]:
        """In OpenAI's form."""
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


@dataclass(frozen=True)
class Head:
    """What all chunks of an answer share.

    Attributes:
        id: Of the request.
        created: When it came, in Unix seconds.
        ref: Of the version that answers.
        digest: Its identity.
    """

    id: str
    created: int
    ref: str
    digest: str


@dataclass(frozen=True)
class Choice:
    """A whole answer: its text, and why it ended."""

    text: str
    finish: str


class ChatForm:
    """The form of ``/v1/chat/completions``."""

    def reply(self, head: Head, choices: Sequence[Choice], usage: Usage) -> bytes:
        """A whole reply."""
        listed = [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": None,
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(choices)
        ]
        return to_json({**self._head(head, "chat.completion"), "choices": listed, "usage": usage.json()})

    def begin(self, index: int) -> dict[str, Any] | None:
        """The choice that begins an answer's stream."""
        return self._delta(index, {"role": "assistant", "content": ""}, None)

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """A choice with new text."""
        return self._delta(index, {"content": text}, None)

    def end(self, index: int, finish: str) -> dict[str, Any]:
        """The choice that ends an answer's stream."""
        return self._delta(index, {}, finish)

    def stream_head(self, head: Head) -> dict[str, Any]:
        """What all chunks share."""
        return self._head(head, "chat.completion.chunk")

    def _delta(self, index: int, delta: Mapping[str, str], finish: str | None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _head(self, head: Head, kind: str) -> dict[str, Any]:
        return _head(head, "chatcmpl", kind)


class TextForm:
    """The form of ``/v1/completions``."""

    def reply(self, head: Head, choices: Sequence[Choice], usage: Usage) -> bytes:
        """A whole reply."""
        listed = [self._choice(index, choice.text, choice.finish) for index, choice in enumerate(choices)]
        return to_json({**self.stream_head(head), "choices": listed, "usage": usage.json()})

    def begin(self, _index: int) -> dict[str, Any] | None:
        """Nothing begins an answer's stream here."""
        return None

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """A choice with new text."""
        return self._choice(index, text, None)

    def end(self, index: int, finish: str) -> dict[str, Any]:
        """The choice that ends an answer's stream."""
        return self._choice(index, "", finish)

    def stream_head(self, head: Head) -> dict[str, Any]:
        """What all chunks share."""
        return _head(head, "cmpl", "text_completion")

    def _choice(self, index: int, text: str, finish: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


class PlainForm:
    """The form of ``/api/v1/generate``.

    Args:
        model_id: What was asked for.
    """

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id

    def reply(self, head: Head, choices: Sequence[Choice], usage: Usage) -> bytes:
        """A whole reply."""
        return to_json(
            {
                "text": choices[0].text,
                "finish_reason": choices[0].finish,
                "model_id": self._model_id,
                "variant": head.ref,
                "digest": head.digest,
                "request_id": head.id,
                "usage": usage.json(),
            }
        )


Form = ChatForm | TextForm


def event(content: Mapping[str, Any]) -> bytes:
    """A server-sent event (HTML Living Standard, section 9.2)."""
    return b"data: " + to_json(content) + b"\n\n"


def to_json(content: Mapping[str, Any]) -> bytes:
    """Write ``content`` as JSON in UTF-8."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _head(head: Head, prefix: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{head.id}",
        "object": kind,
        "created": head.created,
        "model": head.ref,
        "system_fingerprint": head.digest,
    }
