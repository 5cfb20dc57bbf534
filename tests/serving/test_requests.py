from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from ftreg.core.types import Message
from ftreg.serving.decoding.sampling import Sampler, SamplingParams
from ftreg.serving.decoding.tokenizer import ChatPrompt, UserPrompt
from ftreg.serving.deployment import Limits
from ftreg.serving.errors import ApiError
from ftreg.serving.http.requests import (
    ChatRequest,
    CompletionRequest,
    FeedbackRequest,
    GenerateRequest,
    WeightsRequest,
    parse,
)

LIMITS = Limits(max_tokens=100, max_answers=4)
HELLO = {"model": "bot", "messages": [{"role": "user", "content": "hello"}]}
TEXT = {"model": "bot", "prompt": "hello"}


def read(model, content: object) -> Any:
    """Parse ``content`` as JSON; bytes are taken as they are."""
    return parse(model, content if isinstance(content, bytes) else json.dumps(content).encode())


def settings(model, content: object) -> SamplingParams:
    """Return the sampling parameters that ``content`` asks for."""
    body = read(model, content)
    return body.sampling_params(LIMITS, len(body.prompts()))


def refused(model, content: object) -> ApiError:
    """Return the error with which ``content`` is refused."""
    with pytest.raises(ApiError) as error:
        settings(model, content)
    assert error.value.status == 400
    return error.value


def test_a_chat_with_everything() -> None:
    """All supported fields are read, including text parts and OpenAI's newer names."""
    content = {
        "model": "bot",
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
        ],
        "max_tokens": 7, "max_completion_tokens": 5, "temperature": 0, "top_p": 0.5, "stop": ["a", "b"], "seed": -3,
        "n": 2, "stream": True, "stream_options": {"include_usage": True}, "user": "u",
    }  # fmt: skip
    body = read(ChatRequest, content)
    assert body.prompts() == [ChatPrompt((Message("system", "be brief"), Message("user", "hello")))]
    assert body.sampling_params(LIMITS, 1) == SamplingParams(5, 0.0, 0.5, ("a", "b"), -3, 2)
    assert body.with_usage


def test_defaults_are_those_of_openai() -> None:
    """Missing fields and null have OpenAI's defaults."""
    nothing = {"max_tokens": None, "temperature": None, "top_p": None, "stop": None, "seed": None, "n": None}
    assert (
        settings(ChatRequest, HELLO) == settings(ChatRequest, {**HELLO, **nothing, "stream": None}) == SamplingParams()
    )


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_prompts_have_four_forms(prompt: object, prompts: object) -> None:
    """A prompt is text or token ids, one or several."""
    assert read(CompletionRequest, {**TEXT, "prompt": prompt}).prompts() == prompts


def test_generate_needs_a_prompt_alone() -> None:
    """``/api/v1/generate`` goes to the deployment by default, and its prompt is a user message."""
    body = read(GenerateRequest, {"prompt": "hello"})
    assert (body.requested_model, body.prompts()) == ("", [UserPrompt("hello")])
    assert refused(GenerateRequest, {"prompt": "hello", "n": 2}).param == "n"
    assert refused(GenerateRequest, {"prompt": "hello", "stream": True}).param == "stream"


def test_generate_takes_a_model_under_either_name() -> None:
    """The model may be called ``model`` or ``model_id``; two different ones are refused."""
    for fields in ({"model_id": "alpha:1"}, {"model": "alpha:1"}, {"model_id": "alpha:1", "model": "alpha:1"}):
        assert read(GenerateRequest, {"prompt": "hello", **fields}).requested_model == "alpha:1"
    with pytest.raises(ApiError) as error:
        read(GenerateRequest, {"prompt": "hello", "model_id": "alpha:1", "model": "beta:1"}).requested_model  # noqa: B018
    assert (error.value.status, error.value.param) == (400, "model_id")


@pytest.mark.parametrize("number", [b"1" + b"0" * 30, b"9" * 4300])
def test_huge_integers_are_refused_in_few_words(number: bytes) -> None:
    """Integers of thousands of digits, which Python refuses to print, are refused like other invalid ones."""
    for prompt in (b'"a"', b'["a","b"]'):
        error = refused(CompletionRequest, b'{"model":"bot","prompt":' + prompt + b',"n":' + number + b"}")
        assert error.param == "n"
        assert len(error.message) < 100
    for field in ("max_tokens", "best_of"):
        error = refused(CompletionRequest, b'{"model":"bot","prompt":"a","' + field.encode() + b'":' + number + b"}")
        assert error.param == field
        assert len(error.message) < 100
    error = refused(CompletionRequest, b'{"model":"bot","prompt":[' + number + b"]}")
    assert error.param == "prompt"
    assert len(error.message) < 120
    seed = settings(CompletionRequest, b'{"model":"bot","prompt":"a","seed":' + number + b"}").seed
    assert 0 <= Sampler(1.0, seed=seed)(np.zeros(9)) < 9


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]), ("tool_choice", "required"), ("functions", [{}]), ("logprobs", True),
        ("logprobs", 0), ("top_logprobs", 2), ("frequency_penalty", 0.1), ("presence_penalty", -1),
        ("logit_bias", {"1": 2}),
        ("response_format", {"type": "json_object"}), ("echo", True), ("suffix", "x"), ("top_k", 5), ("min_p", 0.1),
        ("modalities", ["text", "audio"]), ("repetition_penalty", 1.1), ("reasoning_effort", "high"),
        ("guided_json", {"type": "object"}), ("guided_choice", ["a"]), ("structured_outputs", {"choice": ["a"]}),
        ("ignore_eos", True), ("stop_token_ids", [1]), ("bad_words", ["x"]), ("length_penalty", 2.0),
        ("use_beam_search", True), ("continue_final_message", True), ("chat_template", "{{ x }}"),
        ("prompt_logprobs", 1), ("min_tokens", 3), ("add_generation_prompt", False), ("anything", math.pi),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused(field: str, value: object) -> None:
    """An unsupported field is refused by name, not ignored."""
    for model, content in ((ChatRequest, HELLO), (CompletionRequest, TEXT)):
        error = refused(model, {**content, field: value})
        assert error.param == field
        assert field in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []}, {"tools": None}, {"tool_choice": "none"}, {"logprobs": False}, {"frequency_penalty": 0},
        {"presence_penalty": 0.0}, {"logit_bias": {}}, {"response_format": {"type": "text"}},
        {"echo": False}, {"top_k": -1},
        {"metadata": {"a": "b"}, "store": True, "service_tier": "auto", "parallel_tool_calls": True},
        {"prompt_cache_key": "k", "safety_identifier": "s", "skip_special_tokens": True, "ignore_eos": False,
         "guided_json": None, "length_penalty": 1.0, "anything": None},
    ],
)  # fmt: skip
def test_what_changes_nothing_is_taken(fields: dict[str, object]) -> None:
    """Fields that never change the answer, and others with values that have no effect, are ignored."""
    assert (
        settings(ChatRequest, {**HELLO, **fields})
        == settings(CompletionRequest, {**TEXT, **fields})
        == SamplingParams()
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"), ({"model": ""}, "model"), ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"),
        ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": "5"}, "max_tokens"), ({"max_tokens": 5.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"), ({"temperature": 2.1}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 1.1}, "top_p"), ({"n": 0}, "n"), ({"n": 5}, "n"), ({"seed": 1.5}, "seed"), ({"seed": "1"}, "seed"),
        ({"stop": ""}, "stop"), ({"stop": ["a"] * 5}, "stop"), ({"stop": ["a", ""]}, "stop"), ({"stop": [1]}, "stop"),
        ({"stream": "yes"}, "stream"), ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options.include_usage"),
        ({"user": 7}, "user"),
    ],
)  # fmt: skip
def test_wrong_fields_of_a_chat_are_named(fields: dict[str, object], param: str) -> None:
    """A field of the wrong type or out of range is refused by name."""
    assert refused(ChatRequest, {**HELLO, **fields}).param == param


def test_a_field_that_is_misspelt_is_recognized() -> None:
    """An unknown field is refused in few words, with the supported one that has nearly its name."""
    error = refused(ChatRequest, {**HELLO, "max_token": 5})
    assert error.message == "max_token is not supported; did you mean max_tokens?"
    error = refused(ChatRequest, {**HELLO, "x" * 10_000: 5})
    assert len(error.message) + len(error.param or "") < 300


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "messages[1].tool_calls"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages[1].function_call"),
        ({"role": "tool", "content": "4", "tool_call_id": "c"}, "messages[1].role"),
        ({"role": "function", "content": "4", "name": "f"}, "messages[1].role"),
    ],
)
def test_a_history_with_tools_is_refused_as_such(message: dict[str, object], param: str) -> None:
    """The error says that tools are not supported, and where they are."""
    error = refused(ChatRequest, {"model": "bot", "messages": [{"role": "user", "content": "2+2?"}, message]})
    assert (error.param, error.message) == (param, "tools are not supported")


@pytest.mark.parametrize("prompt", [None, [], 5, [1, "a"], [-1], [[]], [True], {"a": 1}, [[1.5]], [None], ["a", 1]])
def test_prompts_of_other_forms_are_refused(prompt: object) -> None:
    """A prompt that is neither text nor token ids is refused with one sentence."""
    if prompt == [[]]:
        assert read(CompletionRequest, {**TEXT, "prompt": prompt}).prompts() == [[]]  # found empty when it is encoded
        return
    error = refused(CompletionRequest, {**TEXT, "prompt": prompt})
    assert error.param == "prompt"
    assert (
        error.message
        == "prompt: must be a string, a list of strings, a list of token ids, or a list of lists of token ids"
    )


@pytest.mark.parametrize("best_of", [2, 5])
def test_best_of_is_refused_where_it_would_choose(best_of: int) -> None:
    """``best_of`` is supported only if it equals ``n``."""
    assert refused(CompletionRequest, {**TEXT, "best_of": best_of}).param == "best_of"
    assert settings(CompletionRequest, {**TEXT, "best_of": 2, "n": 2}).n == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"), (b"{", "invalid_json"), (b"\xff\xfe", "invalid_json"),
        (b'{"model": "\xff"}', "invalid_json"),
        (b'{"model": "\\ud800"}', "invalid_json"), (b"[" * 100_000, "invalid_json"), (b"null", "invalid_value"),
        (b"[]", "invalid_value"), (b'"bot"', "invalid_value"), (b"{} {}", "invalid_json"),
        (b'{"model":"bot","prompt":"a","max_tokens":1' + b"0" * 5000 + b"}", "invalid_json"), (b"nan", "invalid_json"),
        (b'{"model":"bot","prompt":"a","temperature":NaN}', "invalid_value"),
        (b'{"model":"bot","prompt":"a","top_p":Infinity}', "invalid_value"),
        (b'{"model":"bot","prompt":"a","seed":1e999}', "invalid_value"),
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body: bytes, code: str) -> None:
    """The error says whether the body is not JSON or is JSON of the wrong shape."""
    assert refused(CompletionRequest, body).code == code


def test_many_wrong_values_are_refused_quickly() -> None:
    """Validation of a long list stops at the first invalid value."""
    error = refused(CompletionRequest, {**TEXT, "prompt": [1.5] * 200_000})
    assert len(error.message) < 200


@pytest.mark.parametrize(
    "content",
    [{}, {"request_id": "a"}, {"request_id": "", "score": 1}, {"request_id": "a", "score": 1.1},
     {"request_id": "a", "score": "1"},
     {"request_id": "a", "score": 1, "comment": 5}, {"request_id": "a", "score": True}],
)  # fmt: skip
def test_wrong_feedback_is_refused(content: object) -> None:
    """Feedback has the id of an answer and a score from 0 to 1."""
    with pytest.raises(ApiError):
        read(FeedbackRequest, content)


@pytest.mark.parametrize("weights", [{}, None, [1], {"alpha:1": -1}, {"alpha:1": "1"}, {"alpha:1": True}])
def test_wrong_weights_are_refused(weights: object) -> None:
    """Weights are non-negative numbers by reference."""
    with pytest.raises(ApiError):
        read(WeightsRequest, {"weights": weights})
