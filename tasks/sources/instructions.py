"""Instructions with answers: rows with a question and its answer in the columns of common data sets, or conversations.

A row may have ``question`` and ``answer`` (GSM8K), ``instruction``, ``input`` and ``output`` (Alpaca), ``prompt`` and
``completion`` or ``response``, or ``messages``: a list of ``{"role": ..., "content": ...}``, whose last one is the
assistant's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from promptfed.errors import DataError, FormatError
from promptfed.examples.base import AnswerItem
from promptfed.printable import printable
from promptfed.readers.json_reader import parse_json
from promptfed.tasks.sources.tables import Row

MESSAGES = "messages"
QUESTIONS = ("question", "instruction", "prompt")
ANSWERS = ("answer", "output", "completion", "response")
INPUT = "input"
"""What an instruction is about; may be empty."""
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
"""Role in a conversation -> what stands before its text where there is no chat template."""
OTHER_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class InstructionColumns:
    """Names of the columns; "" takes the one that is there. ``domain``: who or where a row comes from, "" for none."""

    question: str = ""
    answer: str = ""
    domain: str = ""


def instruction_rows(
    parts: Mapping[str, Iterable[tuple[str, Row]]], columns: InstructionColumns
) -> list[tuple[str, str, AnswerItem]]:
    """Return (split, domain, item) of every row.

    Args:
        parts: Split -> (position of the row, row).
        columns: The columns.

    Raises:
        DataError: A column or a value is missing, or a conversation has no answer; the message names the row.
    """
    return [
        (split, _value(row, columns.domain, place) if columns.domain else "", _item(place, row, columns))
        for split, rows in parts.items()
        for place, row in rows
    ]


def _item(place: str, row: Row, columns: InstructionColumns) -> AnswerItem:
    if MESSAGES in row and not columns.question:
        return _conversation(place, row[MESSAGES])
    question = _value(row, columns.question or _first(row, QUESTIONS, "question", place), place)
    answer = _value(row, columns.answer or _first(row, ANSWERS, "answer", place), place)
    about = str(row.get(INPUT) or "").strip() if not columns.question else ""
    return AnswerItem(f"{question}\n{about}" if about else question, place, answer)


def _first(row: Row, names: Iterable[str], what: str, place: str) -> str:
    for name in names:
        if name in row:
            return name
    columns = ", ".join(printable(name, 40) for name in row)
    raise DataError(
        f"{printable(place)} has no {what}: it has {columns}, and none of {', '.join(names)} or {MESSAGES} "
        f"(--set task.{what}_column names it)"
    )


def _value(row: Row, column: str, place: str) -> str:
    if column not in row:
        columns = ", ".join(printable(name, 40) for name in row)
        raise DataError(f"{printable(place)} has no column '{printable(column, 40)}'; it has {columns}")
    text = str(row[column] if row[column] is not None else "").strip()
    if not text:
        raise DataError(f"{printable(place)}: column '{printable(column, 40)}' is empty")
    return text


def _conversation(place: str, cell: str | None) -> AnswerItem:
    turns = [_turn(place, message) for message in _messages(place, cell)]
    if len(turns) < 2 or turns[-1][0] != "assistant":
        raise DataError(f"{printable(place)}: the last of its messages is not the assistant's answer to another")
    *before, (_, answer) = turns
    shown = before[0][1] if len(before) == 1 else "\n".join(f"{ROLES[role]}: {text}" for role, text in before)
    return AnswerItem(shown, place, answer, turns=tuple(before))


def _messages(place: str, cell: str | None) -> list[Any]:
    try:
        messages = parse_json(cell or "")
    except FormatError as error:
        raise DataError(f"{printable(place)}: messages are not JSON ({error})") from error
    if not isinstance(messages, list):
        raise DataError(f"{printable(place)}: messages are a JSON {type(messages).__name__}, not a list")
    return messages


def _turn(place: str, message: Any) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise DataError(f'{printable(place)}: a message is not an object such as {{"role": ..., "content": ...}}')
    role, text = message.get("role", message.get("from")), message.get("content", message.get("value"))
    role = OTHER_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES or not isinstance(text, str) or not text.strip():
        raise DataError(
            f"{printable(place)}: a message needs a role ({', '.join(ROLES)}) and a text as its content, not "
            f"'{printable(str(role), 40)}' and '{printable(str(text), 40)}'"
        )
    return role, text.strip()
