"""Writes server-sent events (HTML Living Standard, 9.2.6); JSON has no line feeds outside of text, and none in it."""

RETRY = b"retry: 1000\n\n"
"""A browser that lost the line tries again after so many milliseconds."""


def message(kind: str, data: bytes, *, id: int | None = None) -> bytes:
    """Return a message; with an ``id`` a browser that lost the line says from where to go on."""
    return b"".join((b"" if id is None else b"id: %d\n" % id, b"event: %b\n" % kind.encode(), b"data: %b\n\n" % data))


def last_id(text: str | None) -> int | None:
    """Read what a browser says it heard last; None when that is no number of ours."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 19 else None
