"""The bytes of a text's file: compressed or not, of a kind that is read or not, and their checksum."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from unipruning_core.data.sources import not_text
from unipruning_core.errors import DataError, first_line

BOM = "\ufeff"  # some editors begin a file with it; it is no part of the text
BLOCK_BYTES = 2**16
HEAD_BYTES = 512
ALWAYS_READ = 1 << 26  # bytes that any file may stand for, however small
MOST_GROWTH = 250  # times its size that a larger one may; text grows less than 50 times
TAR, TAR_AT = b"ustar", 257
BEGINNINGS = {
    b"PK\x03\x04": "an archive of files",
    b"PK\x05\x06": "an archive of files",
    b"7z\xbc\xaf\x27\x1c": "an archive of files",
    b"Rar!\x1a\x07": "an archive of files",
    b"ARROW1": "an Arrow file",
    b"PAR1": "a parquet file under another name",
    b"%PDF-": "a document of an application",
    b"\xd0\xcf\x11\xe0": "a document of an application",
    b"GGUF": "a file of tensors",
    b"\x93NUMPY": "a file of tensors",
    b"\x89HDF\r\n": "a file of tensors",
    b"SQLite format 3\0": "binary",
    b"\x89PNG\r\n": "binary",
    b"\xff\xd8\xff": "binary",
    b"\x7fELF": "binary",
}


class Hashed(io.RawIOBase):
    """A file whose bytes are digested as they are read."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        count = self._file.readinto(view)
        self._digest.update(view[:count])
        return count

    def hexdigest(self) -> str:
        """Return the sha256 of the whole file, of which the rest is read."""
        while self.read(BLOCK_BYTES):
            pass
        return self._digest.hexdigest()


class Decompressed(io.RawIOBase):
    """The bytes that a compressed file stands for, as long as they are no more than text may be."""

    def __init__(self, file: io.RawIOBase, path: Path) -> None:
        self._file, self._path = file, path
        self._read = 0
        self._most = most_bytes(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        data = self._file.read(len(view)) or b""
        view[: len(data)] = data
        self._read += len(data)
        if self._read > self._most:
            raise too_large(self._path)
        return len(data)


def most_bytes(path: Path) -> int:
    """Return how many bytes a compressed file or table may stand for."""
    return max(ALWAYS_READ, MOST_GROWTH * path.stat().st_size)


def too_large(path: Path) -> DataError:
    """Return the refusal of a file that stands for more than ``most_bytes``."""
    return DataError(
        f"text {str(path)!r} stands for more than {most_bytes(path)} bytes, far more than text of its size does; pass "
        "the text itself, uncompressed"
    )


@contextmanager
def opened(path: Path) -> Iterator[tuple[io.BufferedReader, Hashed]]:
    """Open a file, and decompress what it begins to be compressed with, whatever its ending says.

    Raises:
        OSError: it cannot be read.
        DataError: it is of a kind that is not read, or its compression is damaged or stands for too much.
    """
    with path.open("rb", buffering=0) as raw, decompression_errors(path):
        hashed = Hashed(raw)
        file: io.BufferedReader = io.BufferedReader(cast("io.RawIOBase", hashed), BLOCK_BYTES)
        head = file.peek(HEAD_BYTES)
        if (decompress := _decompressor(head)) is not None:
            file = io.BufferedReader(Decompressed(decompress(file), path), BLOCK_BYTES)
            head = file.peek(HEAD_BYTES)
        refuse_kind(path, head)
        yield file, hashed


@contextmanager
def decompression_errors(path: Path) -> Iterator[None]:
    """Tell a damaged compression from a disk that fails."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(
            f"text {str(path)!r} is compressed and damaged: {first_line(error)}; download or compress it again"
        ) from error


def refuse_kind(path: Path, head: bytes) -> None:
    """Refuse a file that begins as one of another kind.

    Raises:
        DataError: it does.
    """
    whats = [what for beginning, what in BEGINNINGS.items() if head.startswith(beginning)]
    if head[TAR_AT:].startswith(TAR):
        whats.append("an archive of files")
    if whats:
        raise not_text(path, whats[0])


def is_compressed(head: bytes) -> bool:
    """Return whether a file that begins so is compressed in a way that is read."""
    return _decompressor(head) is not None


def decode(data: bytes, path: Path, start: int = 0) -> str:
    """Decode UTF-8 that begins at byte ``start`` of a file, without a byte order mark.

    Raises:
        DataError: it is not text, with the place.
    """
    if (position := data.find(0)) >= 0:
        raise DataError(f"{str(path)!r} is not text: byte {start + position} is NUL; convert it to UTF-8")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        place = start + error.start
        raise DataError(f"{str(path)!r} is not text: byte {place} is not UTF-8; convert it to UTF-8") from error
    return text if start else text.removeprefix(BOM)


def decoded_lines(file: io.BufferedReader, path: Path) -> Iterator[str]:
    """Yield the lines of a text with their ends; see ``decode``."""
    start = 0
    for line in file:
        yield decode(line, path, start)
        start += len(line)


def _decompressor(head: bytes) -> Callable[[io.BufferedReader], io.RawIOBase] | None:
    for beginnings, made in (
        ((b"\x1f\x8b",), lambda file: gzip.GzipFile(fileobj=file)),
        ((b"BZh",), bz2.BZ2File),
        ((b"\xfd7zXZ\0",), lzma.LZMAFile),
        ((b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"), _zstd),
    ):
        if head.startswith(beginnings) and (beginnings[0] != b"BZh" or head[4:10] == b"1AY&SY"):
            return cast("Callable[[io.BufferedReader], io.RawIOBase]", made)
    return None


def _zstd(file: io.BufferedReader) -> io.RawIOBase:
    # it comes with pyarrow, which tables need anyway, and with Python only from 3.14 on
    import pyarrow

    return cast("io.RawIOBase", pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd"))
