"""Names and references: which strings may name models, aliases, tags and files."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ftreg.core.errors import InputError

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,94}[a-z0-9])?", re.ASCII)
_DIGEST_PREFIX = re.compile(r"b3:[0-9a-f]{4,64}", re.ASCII)
_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
# Device names of Windows, and words that mean something else in a reference.
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", "b3", "hf", "latest", "newest"}
    | {f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)}
)


def check_name(name: str, *, what: str = "name", where: str | None = None) -> str:
    """Return ``name`` if it may name a model, an alias or a tag; raise ``InputError`` otherwise.

    A name has 1-96 characters of a-z, 0-9, ``.``, ``_`` and ``-``, starts and ends with a letter or digit, and does not
    contain ``..``. Upper case is not allowed, so that no two names collide on a file system that ignores case.
    """
    article = "an" if what[0] in "aeiou" else "a"
    if not _is_well_formed(name):
        near = _near(name)
        hint = "Use 1-96 of a-z, 0-9, '.', '_', '-', starting and ending with a letter or digit"
        hint += f", such as {near!r}." if _is_well_formed(near) and not _is_reserved(near) else "."
        raise InputError(f"{name!r} cannot be {article} {what}", where=where, hint=hint)
    if _is_reserved(name):
        raise InputError(f"{name!r} cannot be {article} {what}: it is reserved", where=where, hint="Choose another.")
    return name


def check_alias(alias: str) -> str:
    """Return ``alias`` if it may be one: a name with more than digits, since ``bot@3`` is too close to ``bot:3``.

    Raises:
        InputError: It is not a name, or it is a number.
    """
    if check_name(alias, what="alias").isdigit():
        raise InputError(
            f"{alias!r} cannot be an alias: it is a number",
            hint="An alias is a name such as champion or v3; a version has a number, as in name:3.",
        )
    return alias


def nearest_name(text: str) -> str:
    """Return the allowed name that is most like ``text``; ``unnamed`` if nothing of it can be kept."""
    near = _near(text)
    return near if _is_well_formed(near) and not _is_reserved(near) else "unnamed"


def _near(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", re.sub(r"\.{2,}", "-", text.lower()))[:96].strip("-._")


def _is_well_formed(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and ".." not in name


def _is_reserved(name: str) -> bool:
    return name.split(".")[0] in _RESERVED


def check_relative_path(path: str) -> str:
    """Return ``path`` if it is a plain relative POSIX path that stays inside its folder; raise otherwise.

    It refuses absolute paths, parts that are empty, ``.`` or ``..``, backslashes, drive letters, control characters and
    bytes that are not UTF-8.
    """
    parts = path.split("/")
    bad = any(part in ("", ".", "..") for part in parts) or any(not c.isprintable() or c in '\\:*?"<>|' for c in path)
    if bad or len(path) > 512:
        raise InputError(f"{path!r} is not a safe relative path", hint="Use a path inside the folder, with '/'.")
    return path


@dataclass(frozen=True)
class Ref:
    """A parsed reference: ``name``, ``name:3``, ``name@alias`` or a digest prefix such as ``b3:1f09``."""

    name: str | None = None
    number: int | None = None
    alias: str | None = None
    digest_prefix: str | None = None

    def __str__(self) -> str:
        if self.digest_prefix:
            return self.digest_prefix
        if self.number is not None:
            return f"{self.name}:{self.number}"
        return f"{self.name}@{self.alias}" if self.alias else str(self.name)


def parse_ref(text: object) -> Ref:
    """Parse a reference; raise ``InputError`` if ``text`` is not one."""
    if not isinstance(text, str):
        raise InputError(f"{text!r} is not a reference", hint="Write name, name:3, name@alias or b3:<digest>.")
    if text.startswith("b3:"):
        if not _DIGEST_PREFIX.fullmatch(text):
            raise InputError(f"{text!r} is not a digest", hint="A digest is b3: and 4 to 64 of 0-9 a-f.")
        return Ref(digest_prefix=text)
    if "@" in text:
        name, _, alias = text.partition("@")
        return Ref(name=check_name(name), alias=check_alias(alias))
    if ":" in text:
        name, _, number = text.partition(":")
        if not _NUMBER.fullmatch(number):
            raise InputError(
                f"{text!r} is not a reference: {number!r} is not a version number",
                hint="Write name, name:3, name@alias or b3:<digest>.",
            )
        return Ref(name=check_name(name), number=int(number))
    return Ref(name=check_name(text))
