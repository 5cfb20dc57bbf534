"""Names, relative paths and references."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftreg.core.errors import InputError
from ftreg.core.names import Ref, check_alias, check_name, check_relative_path, parse_ref

# Text that is often nearly a name, a path or a reference, so that both verdicts come up.
NEAR_NAMES = st.text(alphabet="ab09._-/\\:@ A\n\x00é", max_size=12) | st.text(max_size=100)
NEAR_PATHS = st.lists(st.sampled_from(["a", "b.txt", ".", "..", "", "c:", "\\", "\n", "~"]), max_size=6).map("/".join)
NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,20}[a-z0-9]", fullmatch=True).filter(lambda name: _is(check_name, name))
REFS = (
    st.builds(Ref, name=NAMES)
    | st.builds(Ref, name=NAMES, number=st.integers(1, 999_999_999))
    | st.builds(Ref, name=NAMES, alias=NAMES)
    | st.builds(Ref, digest_prefix=st.from_regex(r"b3:[0-9a-f]{4,64}", fullmatch=True))
)


def _is(check, text: str) -> bool:
    try:
        check(text)
    except InputError:
        return False
    return True


@given(NEAR_NAMES)
def test_a_name_is_one_harmless_file_name(text: str) -> None:
    """A valid name cannot leave a folder, be hidden in it, or differ from another only by case."""
    if _is(check_name, text):
        assert text.isascii()
        assert text == text.lower()
        assert text == posixpath.basename(text)
        assert not set(text) & set("/\\:@ \n\x00")
        assert not text.startswith(".")
        assert ".." not in text


@pytest.mark.parametrize("name", ["a", "support-bot", "qwen3-0.6b", "v1.2_final", "x" * 96])
def test_good_names_pass(name: str) -> None:
    """Names that people choose are valid."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a..b",
        "-a",
        "a-",
        "A",
        "a b",
        "a/b",
        "a:1",
        "a@b",
        "ä",
        "a\n",
        "x" * 97,
        "con",
        "nul.txt",
        "latest",
    ],
)
def test_bad_names_are_refused(name: str) -> None:
    """Names that would confuse a file system or a reader are not valid."""
    with pytest.raises(InputError):
        check_name(name)


def test_a_bad_name_is_told_what_would_do() -> None:
    """The error proposes the nearest valid name."""
    with pytest.raises(InputError, match="such as 'my-bot'"):
        check_name("My Bot!")


@given(NEAR_NAMES)
def test_a_proposed_name_is_itself_allowed(text: str) -> None:
    """The error never proposes a name that is not valid itself."""
    try:
        check_name(text)
    except InputError as error:
        if error.hint and "such as '" in error.hint:
            check_name(error.hint.split("such as '")[1].removesuffix("'."))


@given(NEAR_PATHS | st.text(max_size=40))
def test_a_relative_path_stays_in_its_folder(path: str) -> None:
    """A valid relative path is normalized, and joined to a folder it is inside that folder."""
    if _is(check_relative_path, path):
        assert posixpath.normpath(path) == path
        assert posixpath.normpath(posixpath.join("/folder", path)).startswith("/folder/")
        assert "\\" not in path
        assert ":" not in path


@pytest.mark.parametrize(
    "path", ["config.json", "model-00001-of-00002.safetensors", "onnx/model.onnx", ".gitattributes"]
)
def test_good_paths_pass(path: str) -> None:
    """Paths of files that models have are valid."""
    assert check_relative_path(path) == path


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../b", "a//b", "./a", "a/", "a\\b", "c:a", "a\x00", "a\x7f"])
def test_bad_paths_are_refused(path: str) -> None:
    """Paths that leave their folder, or that some system reads differently, are not valid."""
    with pytest.raises(InputError):
        check_relative_path(path)


@given(REFS)
def test_a_reference_survives_being_written_and_read(ref: Ref) -> None:
    """A reference that is printed and parsed is unchanged."""
    assert parse_ref(str(ref)) == ref


@given(NEAR_NAMES)
def test_whatever_parses_prints_as_it_was(text: str) -> None:
    """Each reference has one spelling: text that parses is printed unchanged."""
    try:
        ref = parse_ref(text)
    except InputError:
        return
    assert str(ref) == text


def test_an_alias_is_not_a_number() -> None:
    """An alias of digits only is refused, alone and in a reference, and the error says what an alias is."""
    for check, text in ((check_alias, "3"), (parse_ref, "bot@3")):
        with pytest.raises(InputError, match=r"'3' cannot be an alias: it is a number") as caught:
            check(text)
        assert "such as champion" in str(caught.value)
    assert [check_alias(alias) for alias in ("champion", "v3", "2026-03")] == ["champion", "v3", "2026-03"]


@pytest.mark.parametrize("text", ["", "a:", "a:0", "a:-1", "a:01", "a@", "@b", "a@b:1", "b3:", "b3:xyz1", "b3:12"])
def test_bad_references_are_refused(text: str) -> None:
    """Text that is not a reference is refused."""
    with pytest.raises(InputError):
        parse_ref(text)
