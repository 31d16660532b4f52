"""Standard streams that outlive their reader: where nothing can be written any more, the work goes on in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO


class Surviving:
    """A text stream that goes quiet at its first failure and keeps the reason; all else is the stream's own.

    Characters that the stream's encoding lacks are written as escapes.

    Args:
        stream: returns the stream to write to, or None where there is none.
    """

    def __init__(self, stream: Callable[[], TextIO | None]) -> None:
        self._stream = stream
        self.failure: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Write, or do nothing once a write has failed."""
        self._attempt(lambda stream: _write(stream, text))
        return len(text)

    def flush(self) -> None:
        """Flush, or do nothing once a write has failed."""
        self._attempt(lambda stream: stream.flush())

    def isatty(self) -> bool:
        """Return whether somebody may be watching."""
        stream = self._stream()
        try:
            return stream is not None and self.failure is None and stream.isatty()
        # closed
        except ValueError:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)

    def _attempt(self, write: Callable[[TextIO], object]) -> None:
        stream = self._stream()
        if stream is None or self.failure is not None:
            return
        try:
            write(stream)
        # a ValueError is what a closed file raises
        except (OSError, ValueError) as error:
            self.failure = error


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
