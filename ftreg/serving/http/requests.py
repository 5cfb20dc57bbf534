"""Request bodies: OpenAI's formats and ftreg's own, validated, with clear errors for what is not supported."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftreg.core.types import Message
from ftreg.serving.decoding.sampling import SamplingParams
from ftreg.serving.decoding.tokenizer import ChatPrompt, Prompt, UserPrompt
from ftreg.serving.deployment import Limits
from ftreg.serving.errors import ApiError, bad_request

_UNSET: Sequence[Any] = (None, False, 0, 0.0, "", [], {})

WITHOUT_EFFECT: Mapping[str, Sequence[Any] | None] = {
    # Whatever their value: what providers log, bill, cache, schedule or hide by.
    "cache_salt": None,
    "metadata": None,
    "parallel_tool_calls": None,
    "prediction": None,
    "priority": None,
    "prompt_cache_key": None,
    "prompt_cache_options": None,
    "prompt_cache_retention": None,
    "request_id": None,
    "safety_identifier": None,
    "service_tier": None,
    "store": None,
    # With these values: what OpenAI's and vLLM's clients send by default.
    "add_generation_prompt": (None, True),
    "function_call": (None, "none", "auto"),
    "include_stop_str_in_output": _UNSET,
    "length_penalty": (None, 1, 1.0),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "reasoning_effort": (None, "none"),
    "repetition_penalty": (None, 1, 1.0),
    "response_format": (None, {"type": "text"}),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "tool_choice": (None, "none", "auto"),
    "top_k": (None, 0, -1),
    "verbosity": (None, "medium"),
}
"""Fields that are ignored, each with the values that change nothing here; None for any value.

Any other field is refused, unless it is unset: it may change the answer.
"""

_SHAPES = {
    "content": "must be a string, or a list of text parts",
    "prompt": "must be a string, a list of strings, a list of token ids, or a list of lists of token ids",
    "stop": "must be a string, or a list of at most 4 strings, none of them empty",
}
"""What a field that accepts several types must be."""

_MAX_INT = 2**63 - 1  # error messages quote integers, and Python refuses to print those of thousands of digits

Text = Annotated[str, Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Texts = Annotated[list[str], Field(fail_fast=True)]
Tokens = Annotated[list[Annotated[int, Field(ge=0, le=_MAX_INT)]], Field(fail_fast=True)]
TokenLists = Annotated[list[Tokens], Field(fail_fast=True)]


class Body(BaseModel):
    """Base of all request bodies: strict JSON types and finite numbers; unknown keys are kept in ``model_extra``."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())


class StreamOptions(Body):
    """OpenAI's ``stream_options``."""

    include_usage: bool = False


class GenerationRequest(Body):
    """The fields that all requests for completions share."""

    model: Text
    max_tokens: int | None = Field(None, ge=1, le=_MAX_INT)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=_MAX_INT)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    def prompts(self) -> list[Prompt]:
        """Return the prompts to answer."""
        raise NotImplementedError

    def requested_max_tokens(self) -> int | None:
        """Return the largest number of tokens that the request asks for; None if it does not say."""
        return self.max_tokens

    def sampling_params(self, limits: Limits, prompts: int) -> SamplingParams:
        """Return how to answer the request's prompts.

        Args:
            limits: The deployment's limits.
            prompts: Number of prompts.

        Raises:
            ApiError: A value exceeds ``limits`` or is not supported (400).
        """
        self._refuse_unsupported()
        if self.stream_options is not None and not self.stream:
            raise bad_request("stream_options needs stream to be true", param="stream_options")
        completions = prompts * (self.n or 1)
        if completions > limits.max_answers:
            message = f"a request may have at most {limits.max_answers} completions, not {completions}"
            raise bad_request(message, param="n")
        return SamplingParams(
            max_tokens=self.requested_max_tokens(),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            seed=self.seed,
            n=self.n or 1,
        )

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with its token usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def _refuse_unsupported(self) -> None:
        for key, value in (self.model_extra or {}).items():
            harmless = WITHOUT_EFFECT.get(key, _UNSET)
            if harmless is not None and not any(type(value) is type(same) and value == same for same in harmless):
                near = difflib.get_close_matches(key, type(self).model_fields, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                name = key if len(key) <= 100 else f"{key[:100]}…"
                raise bad_request(f"{name} is not supported{hint}", param=name, code="unsupported_parameter")


class TextPart(Body):
    """A text part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None

    def to_message(self) -> Message:
        """Return the message as chat templates expect it; ``developer`` is OpenAI's newer name for ``system``."""
        role = "system" if self.role == "developer" else self.role
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        return Message(role, content)


class ChatRequest(GenerationRequest):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: int | None = Field(None, ge=1, le=_MAX_INT)

    def prompts(self) -> list[Prompt]:
        """Return the conversation."""
        return [ChatPrompt(tuple(message.to_message() for message in self.messages))]

    def requested_max_tokens(self) -> int | None:
        """Return ``max_completion_tokens``, else the older ``max_tokens``."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def _refuse_unsupported(self) -> None:
        super()._refuse_unsupported()
        for number, message in enumerate(self.messages):
            place, extra = f"messages[{number}]", message.model_extra or {}
            for key in ("tool_calls", "function_call"):
                if extra.get(key):
                    raise bad_request("tools are not supported", param=f"{place}.{key}", code="unsupported_parameter")
            if message.role in ("tool", "function"):
                raise bad_request("tools are not supported", param=f"{place}.role", code="unsupported_parameter")
            if message.content is None:
                raise bad_request(f"{place}.content: {_SHAPES['content']}", param=f"{place}.content")


class CompletionRequest(GenerationRequest):
    """The body of ``POST /v1/completions``."""

    prompt: str | Annotated[Texts | Tokens | TokenLists, Field(min_length=1)]
    best_of: int | None = Field(None, ge=1)

    def prompts(self) -> list[Prompt]:
        """Return the prompts, each of them text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def _refuse_unsupported(self) -> None:
        super()._refuse_unsupported()
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise bad_request("best_of other than n is not supported", param="best_of")


class GenerateRequest(GenerationRequest):
    """The body of ``POST /api/v1/generate``; ``model_id`` and ``model`` are optional and mean the same."""

    model: str = ""
    model_id: str = ""
    prompt: str

    @property
    def requested_model(self) -> str:
        """The model asked for, empty for the deployment; raises ``ApiError`` if ``model`` and ``model_id`` differ."""
        if self.model and self.model_id and self.model != self.model_id:
            raise bad_request("model_id and model mean the same and differ; give one of them", param="model_id")
        return self.model_id or self.model

    def prompts(self) -> list[Prompt]:
        """Return the prompt."""
        return [UserPrompt(self.prompt)]

    def _refuse_unsupported(self) -> None:
        super()._refuse_unsupported()
        if self.stream:
            raise bad_request(
                "/api/v1/generate does not stream; use /v1/completions or /v1/chat/completions", param="stream"
            )
        if self.n not in (None, 1):
            raise bad_request("/api/v1/generate returns one completion; use /v1/completions for n", param="n")


class FeedbackRequest(Body):
    """The body of ``POST /v1/feedback``."""

    request_id: Annotated[str, Field(min_length=1, max_length=200)]
    score: float = Field(ge=0, le=1)
    comment: Annotated[str, Field(max_length=10_000)] | None = None


class WeightsRequest(Body):
    """The body of ``PUT /admin/experiment``."""

    weights: Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(min_length=1)]


BodyT = TypeVar("BodyT", bound=Body)


def parse(model: type[BodyT], body: bytes) -> BodyT:
    """Parse and validate a request's body; raise ``ApiError`` (400), which names the first invalid field."""
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
    """Return a field's path as OpenAI writes it, and what the field must be if it accepts several types, else None."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
        if part in _SHAPES:
            return path, _SHAPES[str(part)]
    return path or None, None
