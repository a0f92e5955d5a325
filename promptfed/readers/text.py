"""Lines of text files as users keep them, whatever the locale says.

UTF-8 with or without a byte-order mark, UTF-16 with one; lines end in LF or CRLF. Anything else is refused with the
place of the byte that does not fit.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from promptfed.errors import FormatError
from promptfed.readers.files import MEGABYTE, open_regular, shown

LONGEST_LINE = 8 * MEGABYTE
"""Bytes of a line that is read: a long document in one cell fits."""
UTF16, UTF32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def text_lines(path: Path, limit: int | None = None) -> Iterator[str]:
    """Yield the lines of ``path`` one by one, each with its line end as it stands in the file.

    Args:
        path: a regular file.
        limit: bytes that are read at most; None for no limit, since only one line is held at a time.

    Raises:
        FormatError: naming the file and the place, if it is no text of these encodings, a line is longer than
            LONGEST_LINE, or the file longer than ``limit``.
        OSError: the operating system cannot open or read it.
    """
    with open_regular(path) as file:
        start = file.read(4)
        file.seek(0)
        if start.startswith(UTF32):
            raise FormatError(f"'{shown(path)}' is UTF-32: save it as UTF-8")
        if start.startswith(UTF16):
            yield from _wide_lines(path, TextIOWrapper(file, encoding="utf-16", newline="\n"), limit)
            return
        offset = 0
        while line := file.readline(LONGEST_LINE + 1):
            _check_length(path, len(line), offset + len(line), limit)
            content = line[len(codecs.BOM_UTF8) :] if not offset and line.startswith(codecs.BOM_UTF8) else line
            yield _decoded(path, content, offset + len(line) - len(content))
            offset += len(line)


def read_text(path: Path, limit: int = 16 * MEGABYTE) -> str:
    """Return the whole text of ``path``, line ends as they stand in it.

    Raises:
        FormatError: as ``text_lines`` does.
        OSError: the operating system cannot open or read it.
    """
    return "".join(text_lines(path, limit))


def filled_lines(path: Path, limit: int = 16 * MEGABYTE) -> list[str]:
    """Return the lines that are not blank, without their line ends (LF, CRLF or CR).

    Raises:
        FormatError: as ``text_lines`` does.
        OSError: the operating system cannot open or read it.
    """
    parts = (part for line in text_lines(path, limit) for part in line.rstrip("\r\n").split("\r"))
    return [part for part in parts if part.strip()]


def _decoded(path: Path, line: bytes, offset: int) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte, at = line[error.start], offset + error.start
        raise FormatError(
            f"'{shown(path)}' is not UTF-8: byte 0x{byte:02x} at place {at:,} of the file; save it as UTF-8"
        ) from error
    if (nul := line.find(0)) >= 0:
        raise FormatError(
            f"'{shown(path)}' is no text: a NUL byte at place {offset + nul:,} of the file; "
            "if it is UTF-16, save it as UTF-8"
        )
    return text


def _wide_lines(path: Path, file: TextIOWrapper, limit: int | None) -> Iterator[str]:
    characters = 0
    while True:
        try:
            line = file.readline(LONGEST_LINE + 1)
        except UnicodeError as error:
            raise FormatError(f"'{shown(path)}' is damaged UTF-16 ({error}): save it as UTF-8") from error
        if not line:
            return
        characters += len(line)
        _check_length(path, len(line), 2 * characters, limit)
        if "\0" in line:
            raise FormatError(f"'{shown(path)}' is no text: it holds NUL characters")
        yield line


def _check_length(path: Path, line: int, total: int, limit: int | None) -> None:
    if line > LONGEST_LINE:
        raise FormatError(f"'{shown(path)}' has a line of more than {LONGEST_LINE:,} bytes: it is no text of this kind")
    if limit is not None and total > limit:
        raise FormatError(f"'{shown(path)}' has more than the {limit:,} bytes that are read here")
