from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftreg.core.types import Message, ServedModel
from ftreg.serving.decoding.tokenizer import ChatPrompt, Tokenizer, UserPrompt
from ftreg.serving.errors import ApiError
from tests.tiny import make_tokenizer

HELLO = ChatPrompt((Message("user", "How do I reset it?"),))


def tokenizer_of(*, chat: bool = True, saved_padded: bool = False) -> Tokenizer:
    """The tokenizer of a served model, made from a real one."""
    tokenizer = make_tokenizer(chat=chat)
    if saved_padded:
        tokenizer.backend_tokenizer.enable_truncation(4)
        tokenizer.backend_tokenizer.enable_padding(length=100)
    return Tokenizer(ServedModel(tokenizer, 256, frozenset({tokenizer.eos_token_id})))


TOKENIZER = tokenizer_of()


def test_chats_are_encoded_as_they_are_trained() -> None:
    """A chat is rendered with its template, special tokens included, up to where the answer begins."""
    tokenizer = make_tokenizer()
    text = "<|user|>How do I reset it?<|end|><|assistant|>"
    assert TOKENIZER.encode(HELLO) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("<|assistant|>") == TOKENIZER.encode(HELLO)[-1]


def test_a_user_prompt_is_a_chat_if_there_is_a_template() -> None:
    """A user prompt is a chat if the model has a chat template, and plain text otherwise."""
    assert TOKENIZER.encode(UserPrompt("How do I reset it?")) == TOKENIZER.encode(HELLO)
    plain = tokenizer_of(chat=False)
    assert plain.encode(UserPrompt("reset")) == plain.encode("reset")
    with pytest.raises(ApiError, match="no chat template"):
        plain.encode(HELLO)


@given(st.text(max_size=30).filter(bool))
def test_text_comes_back(text: str) -> None:
    """Decoding inverts encoding, and token ids are taken as they are."""
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.encode(ids) == ids
    if "<|" not in text:
        assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("ids", [[], [-1], [320], [1, 2**70]])
def test_tokens_that_the_model_does_not_have_are_refused(ids: list[int]) -> None:
    """An id outside of the vocabulary would fail the whole batch."""
    with pytest.raises(ApiError) as refused:
        TOKENIZER.encode(ids)
    assert refused.value.status == 400


def test_special_tokens_are_silent() -> None:
    """Tokens that mark turns and ends have no text in completions."""
    assert TOKENIZER.special == set(range(5))
    assert TOKENIZER.decode(sorted(TOKENIZER.special)) == ""


def test_many_threads_encode_at_once() -> None:
    """A tokenizer that was saved with padding and truncation uses neither, also from several threads."""
    shared = tokenizer_of(saved_padded=True)
    texts = [f"reset my password {number} " * 20 for number in range(40)]
    expected = [TOKENIZER.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shared.encode, texts)) == expected
