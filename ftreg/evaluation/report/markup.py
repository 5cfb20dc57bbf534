"""HTML, built so that text can never become markup: every string is escaped unless it was made by ``tag``."""

from __future__ import annotations

from html import escape


class Markup(str):
    """A string that is HTML already. Only ``tag`` and constants of this package make it."""

    __slots__ = ()


def tag(element: str, /, *content: str | None, **attributes: str | None) -> Markup:
    """Return an element. Content and the values of attributes are escaped, unless the content is ``Markup``.

    Args:
        element: Its name.
        content: What stands in it, one after the other; None is left out.
        attributes: Its attributes: ``_`` at the end is removed, others become ``-``; None is left out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{element}{given}>{join(*content)}</{element}>")


def empty_tag(element: str, /, **attributes: str) -> Markup:
    """Return an element without content or end tag, such as ``img``."""
    return Markup(tag(element, **attributes).removesuffix(f"</{element}>"))


def join(*content: str | None) -> Markup:
    """Put pieces one after the other, escaped like those of ``tag``."""
    return Markup("".join(one if isinstance(one, Markup) else escape(one) for one in content if one is not None))
