from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from ftreg.serving.decoding.text import Detokenizer, StopChecker, TextStream
from tests.tiny import TEXTS, make_tokenizer


def decode_bytes(ids: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(ids).decode("utf-8", "replace")


def metaspace():
    """A tokenizer like Llama 2's: a leading space is part of a token, and is dropped at the start of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", "</s>", *fallback], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer


BYTE_LEVEL = make_tokenizer()
METASPACE = metaspace()
WORDS = st.lists(st.sampled_from(["password", "reset", " ", "é", "日本", "👩‍🚀", "a", ".", "\n"]), max_size=20).map(
    "".join
)


def cut(text: str, stops: Sequence[str]) -> str:
    """Return the text before the stop string that is complete first."""
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(found)[1]] if found else text


def write(decode, ids: Sequence[int], stops: Sequence[str] = (), silent: frozenset[int] = frozenset()) -> list[str]:
    """Return the pieces of text that come of ``ids``."""
    writer = TextStream(decode, silent, stops)
    pieces = []
    for token in ids:
        piece, stopped = writer.add(token)
        pieces.append(piece)
        if stopped:
            return pieces
    return [*pieces, writer.flush()[0]]


@given(st.text(max_size=30) | WORDS, st.lists(st.text("ab é日.", min_size=1, max_size=4), max_size=4))
@example("aéb", ["é"])
@example("aab", ["aab", "b"])
def test_pieces_are_the_whole_cut_at_the_first_stop(text: str, stops: list[str]) -> None:
    """For any text and stop strings, the joined pieces are the text up to the first stop string."""
    assert "".join(write(decode_bytes, text.encode(), stops)) == cut(text, stops)


@given(st.binary(max_size=80))
@example(b"\xe2\x82" * 30 + b"\xe2\x82\xac")
@example(b"\x80" * 40 + "😀".encode() + b"\xf0\x9f")
@example("�".encode() * 30 + b"a")
def test_pieces_of_any_bytes_are_what_they_decode_to(data: bytes) -> None:
    """Bytes that are not characters are decoded as they are all at once, however many there are."""
    assert "".join(write(decode_bytes, data)) == decode_bytes(data)


@given(WORDS | st.text(max_size=20))
def test_pieces_of_real_tokenizers(text: str) -> None:
    """Byte-level tokens and tokens with a leading space are decoded as they are all at once."""
    ids = BYTE_LEVEL(text, add_special_tokens=False)["input_ids"]
    decode = lambda ids: BYTE_LEVEL.decode(ids, skip_special_tokens=True)  # noqa: E731
    assert "".join(write(decode, ids)) == decode(ids) == text
    ids = METASPACE.encode(text).ids
    assert "".join(write(METASPACE.decode, ids)) == METASPACE.decode(ids)


def test_spaces_between_words_stay() -> None:
    """A space that belongs to the next word's token is not lost between pieces."""
    pieces = write(METASPACE.decode, METASPACE.encode("reset my password").ids)
    assert "".join(pieces) == "reset my password"
    assert sum(bool(piece) for piece in pieces) > 2


def test_a_character_of_several_tokens_comes_whole() -> None:
    """A character is sent only when its last byte has arrived."""
    assert write(decode_bytes, "a😀b".encode()) == ["a", "", "", "", "😀", "b", ""]


def test_what_is_incomplete_at_the_end_is_told() -> None:
    """A completion that is cut within a character ends with a replacement character, as if decoded at once."""
    assert "".join(write(decode_bytes, "a😀".encode()[:-1])) == "a�"


def test_special_tokens_are_silent() -> None:
    """Special tokens have no text."""
    end = BYTE_LEVEL.eos_token_id
    ids = BYTE_LEVEL("reset it", add_special_tokens=False)["input_ids"]
    decode = lambda ids: BYTE_LEVEL.decode(ids, skip_special_tokens=False)  # noqa: E731
    assert "".join(write(decode, [end, *ids, end], silent=frozenset({end}))) == "reset it"


def test_decoding_takes_few_tokens_a_step() -> None:
    """The number of tokens decoded at each step does not grow with the completion, not even for invalid bytes."""
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode_bytes(ids)

    detokenizer = Detokenizer(decode)
    for byte in ("word " * 100).encode() + b"\x80" * 500 + "�".encode() * 200:
        detokenizer.add(byte)
    assert longest < 64


def test_text_is_held_back_only_while_a_stop_string_may_begin() -> None:
    """Text that may begin a stop string is held back until it cannot."""
    stops = StopChecker(["END", "\n\n"])
    assert stops.add("one E") == ("one ", False)
    assert stops.add("N") == ("", False)
    assert stops.add("\n") == ("EN", False)
    assert stops.add("x") == ("\nx", False)
    assert stops.add("EN") == ("", False)
    assert stops.flush() == "EN"


def test_a_stop_string_is_found_across_pieces() -> None:
    """A stop string that arrives in pieces ends the completion before its first character."""
    stops = StopChecker(["STOP"])
    assert [stops.add(piece) for piece in ("a S", "TO", "P b")] == [("a ", False), ("", False), ("", True)]


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4), st.data())
def test_stops_do_not_depend_on_the_pieces(text: str, stops: list[str], data: st.DataObject) -> None:
    """The place where a text is stopped does not depend on how it is cut into pieces."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    machine, said = StopChecker(stops), ""
    for piece in pieces:
        new, stopped = machine.add(piece)
        said += new
        if stopped:
            break
    else:
        said += machine.flush()
    assert said == cut(text, stops)
