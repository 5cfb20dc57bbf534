"""Text files: read as UTF-8, with an error that says where a file is not."""

from __future__ import annotations

from pathlib import Path

from ftreg.core.errors import InputError

_SAVE = "Save the file as UTF-8."
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte-order marks


def read_text(path: Path, error: type[InputError]) -> str:
    """Read a UTF-8 file, with or without a byte-order mark; raise ``error`` if that is not possible."""
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise error(f"cannot be read: {fault.strerror}", where=str(path)) from None
    return decode(data, path, error)


def decode(data: bytes, path: Path, error: type[InputError]) -> str:
    """Decode the bytes of the file ``path``; raise ``error`` with the line and the byte if they are not UTF-8."""
    refuse_utf16(data, path, error)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        start = data.rfind(b"\n", 0, fault.start) + 1
        raise error(not_utf8(data[start:], fault.start - start), where=f"{path}:{line}", hint=_SAVE) from None


def refuse_utf16(start: bytes, path: Path, error: type[InputError]) -> None:
    """Raise ``error`` if a file starts with the byte-order mark of UTF-16."""
    if start.startswith(_UTF16):
        raise error("is UTF-16, not UTF-8", where=str(path), hint=_SAVE)


def not_utf8(line: bytes, position: int) -> str:
    """Return what is wrong with a line whose byte at ``position``, from 0, is not UTF-8."""
    return f"is not UTF-8: byte 0x{line[position]:02x} at position {position + 1} of the line"
