"""Text from outside (names of classes, files, sites, models' answers) made safe to show.

A terminal obeys escape codes, rich reads ``[markup]`` and matplotlib reads ``$mathtext$``. Text from outside is none
of these: it is shown as it is, with its control characters escaped.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

LONGEST = 200
"""Characters of a name or value that a message shows before it is cut."""
UNSHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that are escaped: control, format (direction overrides among them), surrogates, line breaks."""
JOINERS = "\u200c\u200d"
"""Format characters that are part of ordinary words and of emoji."""


def printable(text: object, limit: int | None = None) -> str:
    r"""Return ``text`` on one line, control characters escaped (``\x1b``), cut to ``limit`` characters.

    Letters of every script stay as they are. Bytes of a file name that are no UTF-8 show as ``\xe9``.
    """
    characters = str(text)
    if not characters.isprintable():
        characters = "".join(map(_escaped, characters))
    if limit is not None and len(characters) > limit:
        characters = characters[: max(limit - 1, 0)] + "…"
    return characters


def printable_lines(text: object) -> str:
    """Return ``text`` as ``printable`` does, with its own line breaks kept."""
    return "\n".join(map(printable, str(text).split("\n")))


def without_password(text: str) -> str:
    """Return ``text`` with a mask in the place of the user and password of the addresses in it."""
    return re.sub(r"(?<=://)[^/\s'\"]*@", "***@", text)


def is_printable(text: str) -> bool:
    """Whether ``printable`` shows ``text`` unchanged."""
    return printable(text) == text


def plain_markup(text: object, limit: int | None = None) -> str:
    """Return ``text`` for a place where rich reads markup: brackets show as brackets."""
    from rich.markup import escape

    return escape(printable(text, limit))


def plain_text(text: object, style: str = "", limit: int | None = None) -> Text:
    """Return ``text`` as rich text in one style: no markup is read, control characters are escaped."""
    from rich.text import Text

    return Text("\n".join(printable(line, limit) for line in str(text).split("\n")), style=style)


def markdown_cell(text: object, limit: int | None = None) -> str:
    """Return ``text`` for a cell of a Markdown table."""
    return printable(text, limit).replace("|", "\\|")


def figure_text(text: object, limit: int | None = None) -> str:
    """Return ``text`` for a label of a matplotlib figure: a dollar sign shows as one and begins no formula."""
    return printable(text, limit).replace("$", r"\$")


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) not in UNSHOWN or character in JOINERS:
        return character
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
