"""Why an item is no text: one of a few kinds, a colon, and what was found."""

from __future__ import annotations

KINDS = frozenset(
    {
        "cannot be read",  # missing, forbidden, encrypted, or a disk that fails
        "not a regular file",
        "damaged",  # cut short, or its bytes contradict its format
        "expands too far",  # a decompression bomb
        "too large",  # longer than limits.line_bytes or limits.file_bytes
        "not UTF-8",
        "binary",  # a NUL character
        "lone surrogate",
        "not JSON",
        "not CSV",
        "no text",  # a record without the column, or whose column is null or no string
    }
)


class UnreadableError(Exception):
    """Something that cannot be read as text; the message is the reason: its kind, a colon, what was found."""


def not_utf8(error: UnicodeDecodeError) -> UnreadableError:
    """Say which byte is no UTF-8."""
    return UnreadableError(f"not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}")


def damaged(error: BaseException | str) -> UnreadableError:
    """Say what a library said of damaged data, in one line."""
    if isinstance(error, UnreadableError):
        return error
    lines = str(error).strip().splitlines()
    return UnreadableError(f"damaged: {lines[0][:200] if lines else type(error).__name__}")


def too_large(what: str, limit: int) -> UnreadableError:
    """Say that something is longer than its limit."""
    return UnreadableError(f"too large: {what} of more than {limit} bytes")
