"""Cut a Markdown page into what it says of one method: sections, paragraphs and rows of tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

HEADING = re.compile(r"(#{1,6}) (.*)")
BOLD_NAMES = re.compile(r"\*\*([\w`, -]{1,60})\.?\*\*")
"""A paragraph that begins like this is about the methods that it names."""


@dataclass
class Section:
    """A heading with the blocks of text below it, up to the next heading.

    Args:
        level: 1 for the page's title.
        title: As the page has it.
        blocks: Paragraphs, lists, tables and pieces of code.
        above: Titles of the sections that this one is inside of, without the page's.
    """

    level: int
    title: str
    blocks: list[str] = field(default_factory=list)
    above: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """The heading's anchor, as code hosts and the site make it."""
        return re.sub(r"[^\w\- ]", "", self.title.lower()).replace(" ", "-")


@dataclass(frozen=True)
class TableRow:
    """A row with the heads of its table and the row of zero-shot beside it, if there is one."""

    section: Section
    heads: tuple[str, ...]
    cells: tuple[str, ...]
    zero_shot: tuple[str, ...] | None


def sections(text: str) -> list[Section]:
    """Return the sections of a page; a heading inside a piece of code is none."""
    result = [Section(1, "")]
    inside_code = False
    lines: list[str] = []

    def end_block() -> None:
        if lines:
            result[-1].blocks.append("\n".join(lines))
            lines.clear()

    for line in text.splitlines():
        inside_code ^= line.lstrip().startswith("```")
        heading = None if inside_code else HEADING.match(line)
        if heading:
            end_block()
            level = len(heading[1])
            path = {s.level: s.title for s in result if s.level > 1}
            result.append(Section(level, heading[2], above=tuple(t for n, t in sorted(path.items()) if n < level)))
        elif not line.strip() and not inside_code:
            end_block()
        else:
            lines.append(line)
    end_block()
    return result


def about(key: str, name: str, pages: Sequence[Section]) -> list[tuple[Section, list[str]]]:
    """Return the blocks about one method, with the section that each comes from.

    A section is about it if its title names the method. Elsewhere a paragraph that begins with the method's name in
    bold is, with all that follows until another paragraph begins so.
    """
    result = []
    for section in pages:
        named = _words(section.title)
        if {_plain(key), _plain(name)} & set(named):
            shared = [block for block in section.blocks if BOLD_NAMES.match(block)]
            if not shared or key not in {word for block in shared for word in _names(block)}:
                result.append((section, section.blocks))
                continue
        blocks, taking = [], False
        for block in section.blocks:
            if names := _names(block):
                taking = key in names
            if taking:
                blocks.append(block)
        if blocks:
            result.append((section, blocks))
    return result


def rows(key: str, name: str, pages: Sequence[Section]) -> Iterator[TableRow]:
    """Yield the rows of all tables whose first cell is the method."""
    wanted = {_plain(key), _plain(name)}
    for section in pages:
        for block in section.blocks:
            lines = block.splitlines()
            if len(lines) < 3 or not lines[0].startswith("|") or not set(lines[1]) <= set("|-: "):
                continue
            heads = cells(lines[0])
            body = [cells(line) for line in lines[2:] if line.startswith("|")]
            zero_shot = next((row for row in body if _plain(row[0]).startswith("zeroshot")), None)
            for row in body:
                if len(row) == len(heads) and _plain(row[0].partition(",")[0]) in wanted:
                    yield TableRow(section, heads, row, zero_shot if row is not zero_shot else None)


def cells(line: str) -> tuple[str, ...]:
    """Return the cells of a row; an escaped bar is no border."""
    return tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")))


def _names(block: str) -> set[str]:
    match = BOLD_NAMES.match(block)
    return set(re.findall(r"[\w-]+", match[1])) if match else set()


def _words(title: str) -> list[str]:
    parts = re.split(r"[,:()]|\band\b", title)
    return [_plain(part) for part in parts]


def _plain(text: str) -> str:
    return re.sub(r"\W|_", "", text).lower()
