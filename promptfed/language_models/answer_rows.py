"""Questions and answers as rows of token ids: the question's end is cut where both are too long, never the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from promptfed.errors import ConfigError, DataError, reason
from promptfed.examples.base import AnswerItem, Item, QuestionItem
from promptfed.language_models.text_rows import MOST_ROWS, RowWriter
from promptfed.printable import printable

_PLACE = "\x02{}\x03"
"""Stands for a text in a conversation that a chat template has filled in."""


@dataclass(frozen=True)
class AnswerRow:
    """What a model reads and what it is to write.

    Attributes:
        question: Token ids, the tokenizer's own markers included.
        answer: Token ids, the marker that ends an answer included.
        cut: How many tokens of the question were left out.
    """

    question: tuple[int, ...]
    answer: tuple[int, ...]
    cut: int = 0


class AnswerWriter:
    """Turns questions and their answers into rows for one model.

    Args:
        writer: Writes texts for the model.
        tokenizer: A fast tokenizer of transformers.
    """

    def __init__(self, writer: RowWriter, tokenizer: Any) -> None:
        self.writer, self.tokenizer = writer, tokenizer
        self._end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self._cache: dict[tuple[Item, str, int], AnswerRow] = {}
        self._tails: dict[str, list[int]] = {}

    @property
    def ends(self) -> frozenset[int]:
        """Tokens at which an answer ends: the end marker, and that of a turn in a conversation."""
        tails = [self._tail()] if getattr(self.tokenizer, "chat_template", None) else []
        return frozenset([*self._end, *(tail[-1] for tail in tails if tail)])

    def row(self, item: Item, prompt: str = "", reserve: int = 0) -> AnswerRow:
        """Return the row of a question and its answer.

        Args:
            item: The question.
            prompt: A hand-written prompt, which stands where the template says, or before the first turn.
            reserve: Tokens that must remain free for an insert.

        Raises:
            DataError: The item is no question, or the answer alone is too long.
            ConfigError: Prompt and template leave no room, or the tokenizer has no chat template.
        """
        if not isinstance(item, QuestionItem):
            raise DataError(f"{item.name} has no answer, which is what model '{self.writer.name}' learns to write")
        key = (item, prompt, reserve)
        if key not in self._cache:
            if len(self._cache) >= MOST_ROWS:
                self._cache.clear()
            self._cache[key] = self._compose(item, prompt, reserve)
        return self._cache[key]

    def _compose(self, item: QuestionItem, prompt: str, reserve: int) -> AnswerRow:
        writer, is_chat = self.writer, self.writer.form.chat
        if is_chat:
            self._ids(_turns(item), item.name)  # what is wrong with the conversation itself is said first
            answer = [*writer.tokens.start(item.answer), *(self._tail() or self._end)]
        else:
            space = "" if writer.family == "encoder-decoder" or self._ends_with_space(item.text, prompt) else " "
            answer = [*writer.tokens.following(space + item.answer), *self._end]
        room = writer.longest - reserve - len(answer)
        if room < 1:
            raise DataError(
                f"the answer of {item.name} has {len(answer)} tokens, and '{writer.name}' reads {writer.longest} with "
                "prompt and question: leave it out, because answers are never cut"
            )
        if is_chat:
            question, cut = self._conversation(item, prompt, room)
        else:
            row = writer.row(item, prompt, reserve + len(answer))
            question, cut = list(row.ids), row.cut
        return AnswerRow(tuple(question), tuple(answer), cut)

    def _ends_with_space(self, text: str, prompt: str) -> bool:
        return self.writer.form.render(prompt, text)[-1:].isspace()

    # -------------------------------------------------------------------------------------------- conversations

    def _conversation(self, item: QuestionItem, prompt: str, room: int) -> tuple[list[int], int]:
        """Return the ids of a conversation up to its answer, and by how many its last turn was cut."""
        turns = _turns(item)
        if prompt:
            turns[0] = (turns[0][0], f"{prompt}\n\n{turns[0][1]}")
        ids = self._ids(turns, item.name)
        length = len(ids)
        while len(ids) > room:
            role, text = turns[-1]
            if not text:
                raise ConfigError(
                    f"a conversation of {length} tokens leaves no room for its last turn ({item.name}): "
                    f"'{self.writer.name}' reads {max(0, room)} beside answer and prompt"
                )
            turns[-1] = (role, self.writer.tokens.shortened(text, len(ids) - room))
            ids = self._ids(turns, item.name)
        return ids, length - len(ids)

    def _ids(self, turns: Sequence[tuple[str, str]], name: str) -> list[int]:
        """Return the ids of ``turns`` and of what begins an answer.

        Where a text holds a marker of the model, it is tokenised by itself, so that it stays the letters it is.
        """
        texts = [text for _, text in turns]
        whole = self._render([(role, _PLACE.format(k)) for k, (role, _) in enumerate(turns)], name, begins=True)
        if not any(marker in text for text in texts for marker in self.tokenizer.all_special_tokens):
            for number, text in enumerate(texts):
                whole = whole.replace(_PLACE.format(number), text)
            return self._fixed(whole)
        ids: list[int] = []
        for number, text in enumerate(texts):
            before, _, whole = whole.partition(_PLACE.format(number))
            ids += [*self._fixed(before), *self.writer.tokens.following(text)]
        return ids + self._fixed(whole)

    def _tail(self) -> list[int]:
        """Return what a chat template puts behind an answer, up to its first marker; empty for none."""
        self.check_chat()
        template = str(self.tokenizer.chat_template)
        if template not in self._tails:
            turns = [("user", _PLACE.format(0)), ("assistant", _PLACE.format(1))]
            _, _, rest = self._render(turns, "a conversation").partition(_PLACE.format(1))
            tail, markers = self._fixed(rest), set(self.tokenizer.all_special_ids)
            first = next((k for k, token in enumerate(tail) if token in markers), None)
            self._tails[template] = [] if first is None else tail[: first + 1]
        return self._tails[template]

    def _render(self, turns: Sequence[tuple[str, str]], name: str, *, begins: bool = False) -> str:
        self.check_chat()
        messages = [{"role": role, "content": text} for role, text in turns]
        try:
            content: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=begins)
        except Exception as error:  # a template raises what it likes
            raise DataError(
                f"the chat template of '{self.writer.name}' refuses {name} ({printable(reason(error), 200)}): mend "
                "its turns, or leave out task.chat_template"
            ) from error
        return content

    def check_chat(self) -> None:
        """Raise ConfigError if the tokenizer has no chat template."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise ConfigError(
                f"task.chat_template=true, and the tokenizer of '{self.writer.name}' has no chat template: leave the "
                "option out, or use a model that was tuned for conversations"
            )

    def _fixed(self, text: str) -> list[int]:
        """Return the ids of a text whose markers are markers."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _turns(item: QuestionItem) -> list[tuple[str, str]]:
    """Return the conversation before an answer; a question alone is a turn of the user."""
    return [*(item.turns if isinstance(item, AnswerItem) else ())] or [("user", item.text)]
