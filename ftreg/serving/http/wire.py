"""Requests as they come over the wire: OpenAI's forms, ftreg's own, and what of them is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftreg.core.types import Message
from ftreg.serving.decoding.codec import Chat, Prompt, Question
from ftreg.serving.decoding.generation import Settings
from ftreg.serving.deployment import Limits
from ftreg.serving.errors import ApiError, bad_request

_NOTHING: Sequence[Any] = (None, False, 0, 0.0, "", [], {})

UNSUPPORTED: Mapping[str, Sequence[Any]] = {
    "audio": _NOTHING,
    "echo": _NOTHING,
    "frequency_penalty": _NOTHING,
    "function_call": (None, "none", "auto"),
    "functions": _NOTHING,
    "logit_bias": _NOTHING,
    "logprobs": (None, False),
    "min_p": _NOTHING,
    "min_tokens": _NOTHING,
    "modalities": (None, ["text"]),
    "presence_penalty": _NOTHING,
    "reasoning_effort": (None, "none"),
    "repetition_penalty": (None, 1, 1.0),
    "response_format": (None, {"type": "text"}),
    "suffix": _NOTHING,
    "tool_choice": (None, "none", "auto"),
    "tools": _NOTHING,
    "top_k": (None, 0, -1),
    "top_logprobs": _NOTHING,
    "web_search_options": _NOTHING,
}
"""Fields that would change the answer, with the values that change nothing; all others are refused."""

_SHAPES = {
    "content": "must be a string, or a list of text parts",
    "prompt": "must be a string, a list of strings, a list of token ids, or a list of lists of token ids",
    "stop": "must be a string, or a list of at most 4 strings, none of them empty",
}
"""What fields with several forms take."""

_MOST = 2**63 - 1  # of integers that messages may quote: Python does not print those of thousands of digits

Text = Annotated[str, Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Texts = Annotated[list[str], Field(fail_fast=True)]
Tokens = Annotated[list[Annotated[int, Field(ge=0, le=_MOST)]], Field(fail_fast=True)]
TokenLists = Annotated[list[Tokens], Field(fail_fast=True)]


class Wire(BaseModel):
    """What all requests share: JSON's own types, finite numbers; keys that nothing is known of are kept apart."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())


class StreamOptions(Wire):
    """What a stream tells besides the answer."""

    include_usage: bool = False


class Generate(Wire):
    """What OpenAI's requests share."""

    model: Text
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=_MOST)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    def prompts(self) -> list[Prompt]:
        """What is to be answered."""
        raise NotImplementedError

    def most_tokens(self) -> int | None:
        """Most tokens of an answer, where the request says."""
        return self.max_tokens

    def settings(self, limits: Limits, prompts: int) -> Settings:
        """How so many prompts are answered; raise ``ApiError`` for what is beyond ``limits`` or not supported."""
        self._refuse_unsupported()
        if self.stream_options is not None and not self.stream:
            raise bad_request("stream_options needs stream to be true", param="stream_options")
        most = self.most_tokens()
        if most is not None and most > limits.max_tokens:
            raise bad_request(f"an answer may have at most {limits.max_tokens} tokens here", param="max_tokens")
        answers = prompts * (self.n or 1)
        if answers > limits.max_answers:
            raise bad_request(f"a request may have at most {limits.max_answers} answers, not {answers}", param="n")
        return Settings(
            max_tokens=most,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            seed=self.seed,
            n=self.n or 1,
        )

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def _refuse_unsupported(self) -> None:
        for key, value in (self.model_extra or {}).items():
            if key in UNSUPPORTED and not any(type(value) is type(same) and value == same for same in UNSUPPORTED[key]):
                raise bad_request(f"{key} is not supported here", param=key, code="unsupported_parameter")


class TextPart(Wire):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Wire):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]

    def to_message(self) -> Message:
        """The turn as templates know it; ``developer`` is OpenAI's newer word for ``system``."""
        role = "system" if self.role == "developer" else self.role
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role, content)


class ChatRequest(Generate):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: int | None = Field(None, ge=1)

    def prompts(self) -> list[Prompt]:
        """The chat."""
        return [Chat(tuple(message.to_message() for message in self.messages))]

    def most_tokens(self) -> int | None:
        """Most tokens of an answer; the newer field comes first."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def _refuse_unsupported(self) -> None:
        super()._refuse_unsupported()
        for number, message in enumerate(self.messages):
            extra = message.model_extra or {}
            if extra.get("tool_calls") or extra.get("function_call"):
                raise bad_request("tools are not supported here", param=f"messages[{number}].tool_calls")


class CompletionRequest(Generate):
    """The body of ``POST /v1/completions``."""

    prompt: str | Annotated[Texts | Tokens | TokenLists, Field(min_length=1)]
    best_of: int | None = Field(None, ge=1)

    def prompts(self) -> list[Prompt]:
        """The prompts, each of them text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def _refuse_unsupported(self) -> None:
        super()._refuse_unsupported()
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise bad_request("best_of other than n is not supported here", param="best_of")


class GenerateRequest(Generate):
    """The body of ``POST /api/v1/generate``; ``model_id``, or ``model``, may be left out."""

    model: str = ""
    model_id: str = ""
    prompt: str

    @property
    def wanted(self) -> str:
        """The model that is asked for, empty for none; raise ``ApiError`` where the two names of it differ."""
        if self.model and self.model_id and self.model != self.model_id:
            raise bad_request("model_id and model are the same field here; give one of them", param="model_id")
        return self.model_id or self.model

    def prompts(self) -> list[Prompt]:
        """The prompt."""
        return [Question(self.prompt)]

    def _refuse_unsupported(self) -> None:
        super()._refuse_unsupported()
        if self.stream:
            raise bad_request("streams are at /v1/completions and /v1/chat/completions", param="stream")
        if self.n not in (None, 1):
            raise bad_request("there is one answer here; n is for /v1/completions", param="n")


class FeedbackRequest(Wire):
    """The body of ``POST /v1/feedback``."""

    request_id: Annotated[str, Field(min_length=1, max_length=200)]
    score: float = Field(ge=0, le=1)
    comment: Annotated[str, Field(max_length=10_000)] | None = None


class WeightsRequest(Wire):
    """The body of ``PUT /admin/experiment``."""

    weights: Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(min_length=1)]


WireT = TypeVar("WireT", bound=Wire)


def parse(model: type[WireT], body: bytes) -> WireT:
    """Read a request's body; raise ``ApiError`` (400), which names the first field at fault."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from None


def _explain(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    message = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] == "json_invalid":
        return bad_request(f"the body is not JSON: {message.removeprefix('invalid JSON: ')}", code="invalid_json")
    param, shape = _locate(first["loc"])
    if shape is None:
        message = message.removeprefix("input ").removeprefix("field ")
        message = {"required": "is required"}.get(message, message)
    return bad_request(f"{param}: {shape or message}" if param else f"the body {message}", param=param)


def _locate(location: Sequence[str | int]) -> tuple[str | None, str | None]:
    """The path of a field as OpenAI writes it, and what the field takes where it has several forms."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
        if part in _SHAPES:
            return path, _SHAPES[str(part)]
    return path or None, None
