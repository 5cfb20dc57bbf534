from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftreg.core.types import Message, ServedModel
from ftreg.serving.decoding.codec import Chat, Codec, Question
from ftreg.serving.errors import ApiError
from tests.tiny import make_tokenizer

HELLO = Chat((Message("user", "How do I reset it?"),))


def codec(*, chat: bool = True, saved_padded: bool = False) -> Codec:
    """The codec of a model with a real tokenizer."""
    tokenizer = make_tokenizer(chat=chat)
    if saved_padded:
        tokenizer.backend_tokenizer.enable_truncation(4)
        tokenizer.backend_tokenizer.enable_padding(length=100)
    return Codec(ServedModel(tokenizer, 256, frozenset({tokenizer.eos_token_id})))


CODEC = codec()


def test_chats_are_encoded_as_they_are_trained() -> None:
    """A chat is what the template makes of it, with its special tokens, up to where the answer begins."""
    tokenizer = make_tokenizer()
    text = "<|user|>How do I reset it?<|end|><|assistant|>"
    assert CODEC.encode(HELLO) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("<|assistant|>") == CODEC.encode(HELLO)[-1]


def test_a_question_is_a_chat_where_there_is_a_template() -> None:
    """The short form asks a model as it was trained to be asked."""
    assert CODEC.encode(Question("How do I reset it?")) == CODEC.encode(HELLO)
    plain = codec(chat=False)
    assert plain.encode(Question("reset")) == plain.encode("reset")
    with pytest.raises(ApiError, match="no chat template"):
        plain.encode(HELLO)


@given(st.text(max_size=30).filter(bool))
def test_text_comes_back(text: str) -> None:
    """What is encoded is decoded to the same, and token ids are taken as they are."""
    ids = CODEC.encode(text)
    assert CODEC.encode(ids) == ids
    if "<|" not in text:
        assert CODEC.decode(ids) == text


@pytest.mark.parametrize("ids", [[], [-1], [320], [1, 2**70]])
def test_tokens_that_the_model_does_not_have_are_refused(ids: list[int]) -> None:
    """An id outside of the vocabulary would fail the whole batch."""
    with pytest.raises(ApiError) as refused:
        CODEC.encode(ids)
    assert refused.value.status == 400


def test_special_tokens_are_silent() -> None:
    """Tokens that mark turns and ends have no text in answers."""
    assert CODEC.silent == set(range(5))
    assert CODEC.decode(sorted(CODEC.silent)) == ""


def test_many_threads_encode_at_once() -> None:
    """A tokenizer that was saved with padding and truncation does neither, whoever uses it at the same time."""
    shared = codec(saved_padded=True)
    texts = [f"reset my password {number} " * 20 for number in range(40)]
    expected = [CODEC.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shared.encode, texts)) == expected
