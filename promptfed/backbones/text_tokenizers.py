"""Tokenizers of open_clip models: how each frames and pads a text, and what its ids mean."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from promptfed.backbones.tokenization import Frame, open_clip_words
from promptfed.errors import BackboneError, reason
from promptfed.printable import printable

PROBES = ("a photo of a cat.", "ant", "", "A Photo of  two (2) grey_owls, at night!")
"""Texts by which a tokenizer is known, and by which the frame that was found is checked."""
LEAD = "a"
"""A word to stand before a text, to see how it is split in the middle of a sentence."""
USUAL = "f34e6277119901719d2b9735497735d98e3fc35640ba05de2cd0e13a15abb531"
"""Fingerprint of CLIP's own tokenizer."""
SPACES = ("\u2581", "\u0120")
"""Marks of a word's beginning: SentencePiece's, and that of byte-level pieces."""


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer as ``Sentences`` uses it; its fields are explained there.

    Attributes:
        encode: Ids of a text that begins a sentence, without its frame.
        frame: The ids around them.
        words: The word of each token id that stands for text.
        follow: Ids of a text behind other words; None: the same.
        limit: The most tokens of a sentence, frame included; None: the tower's.
        fingerprint: Tells tokenizers apart; empty for CLIP's own.
    """

    encode: Callable[[str], list[int]]
    frame: Frame
    words: Callable[[], Mapping[int, str]]
    follow: Callable[[str, str], list[int]] | None = None
    limit: int | None = None
    fingerprint: str = ""


def text_tokenizer(name: str, tokenizer: Any) -> TextTokenizer:
    """Return ``tokenizer`` as promptfed uses it.

    Args:
        name: The backbone, for errors.
        tokenizer: open_clip's ``SimpleTokenizer``, ``HFTokenizer`` or ``SigLipTokenizer``, one of transformers, or a
            ``TextTokenizer``.

    Raises:
        BackboneError: It is of another kind, or frames texts in an unknown way.
    """
    from open_clip.tokenizer import SimpleTokenizer

    if isinstance(tokenizer, TextTokenizer):
        return tokenizer
    if isinstance(tokenizer, SimpleTokenizer):
        frame = Frame((tokenizer.sot_token_id,), (tokenizer.eot_token_id,))
        fingerprint, limit = getattr(tokenizer, "fingerprint", None), getattr(tokenizer, "context_length", None)
        fingerprint = _unusual(tokenizer) if fingerprint is None else fingerprint
        words = partial(open_clip_words, tokenizer)
        return TextTokenizer(tokenizer.encode, frame, words, limit=limit, fingerprint=fingerprint)
    if hasattr(getattr(tokenizer, "tokenizer", tokenizer), "convert_ids_to_tokens"):
        return _of_transformers(name, tokenizer)
    raise BackboneError(
        f"backbone '{printable(name, 300)}' uses the tokenizer {type(tokenizer).__name__}: give one of open_clip "
        "(open_clip.get_tokenizer) or of transformers"
    )


def is_tokenizer(value: Any) -> bool:
    """Return whether ``value`` is a tokenizer of open_clip or transformers, or a ``TextTokenizer``."""
    inner = getattr(value, "tokenizer", value)
    return isinstance(value, TextTokenizer) or hasattr(value, "encode") or hasattr(inner, "convert_ids_to_tokens")


def _unusual(tokenizer: Any) -> str:
    """Return a fingerprint of a ``SimpleTokenizer`` that cleans texts otherwise or has other words; else nothing."""
    ids = [tokenizer.encode(text) for text in PROBES]
    digest = hashlib.sha256(json.dumps([ids, tokenizer.sot_token_id, tokenizer.eot_token_id]).encode()).hexdigest()
    return "" if digest == USUAL else digest


# --------------------------------------------------------------------------------------------- of transformers


class _Pieces:
    """A tokenizer of transformers, with the cleaning that open_clip does before it."""

    def __init__(self, tokenizer: Any) -> None:
        from open_clip import tokenizer as library

        self.outer, self.inner = tokenizer, getattr(tokenizer, "tokenizer", tokenizer)
        self.mode = getattr(tokenizer, "tokenizer_mode", "") or ""
        self.clean: Callable[[str], str] = getattr(tokenizer, "clean_fn", _unchanged)
        if type(tokenizer).__name__ == "SigLipTokenizer":
            self.clean = lambda text: library.canonicalize_text(library.basic_clean(text))
        self.strip = self.inner.sep_token_id if getattr(tokenizer, "strip_sep_token", False) else None

    def ids(self, text: str, *, framed: bool = False) -> list[int]:
        """Return the ids of ``text`` as it is."""
        found = self.inner(text, add_special_tokens=framed, truncation=False, padding=False, verbose=False)
        return [0 if number == self.strip else int(number) for number in found["input_ids"]]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text that begins a sentence."""
        return self.ids(self.clean(text))

    def follow(self, text: str, gap: str) -> list[int]:
        """Return the ids of a text behind a word and ``gap``."""
        lead, cleaned = self.ids(LEAD), self.clean(text)
        if not cleaned:
            return []
        both = self.ids(f"{LEAD}{gap}{cleaned}")
        return both[len(lead) :] if both[: len(lead)] == lead else self.ids(cleaned)

    def frame(self) -> Frame | None:
        """Return the frame around a text's ids; None if it is none."""
        pad = self.inner.pad_token_id
        if pad is None:
            return None
        if self.mode == "clips":
            return Frame((self.inner.bos_token_id,), (self.inner.eos_token_id,), pad, self.inner.cls_token_id)
        plain, whole = self.ids(PROBES[0]), self.ids(PROBES[0], framed=True)
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return Frame(tuple(whole[:start]), tuple(whole[start + len(plain) :]), pad)
        return None

    def whole(self, text: str, length: int) -> list[int]:
        """Return the row of ids that the model itself is given for ``text``."""
        if self.outer is not self.inner:
            row = self.outer([text], context_length=length)[0]
        else:
            row = self.inner(text, padding="max_length", truncation=True, max_length=length)["input_ids"]
        return [int(number) for number in row]

    def words(self) -> dict[int, str]:
        """Return token id -> word; a piece of a word has a hyphen where it is joined."""
        special = set(self.inner.all_special_ids)
        entries = {number: token for token, number in self.inner.get_vocab().items() if number not in special}
        mark = next(
            (m for m in SPACES if sum(token.startswith(m) for token in entries.values()) * 10 > len(entries)), ""
        )
        if mark == SPACES[1]:
            return {number: _decoded(token, mark) for number, token in entries.items()}
        if mark:
            return {n: t.removeprefix(mark) if t.startswith(mark) else f"-{t}" for n, t in entries.items()}
        return {number: f"-{token[2:]}" if token.startswith("##") else token for number, token in entries.items()}

    def fingerprint(self, frame: Frame) -> str:
        """Return what tells this tokenizer from others."""
        digest = hashlib.sha256(json.dumps([type(self.inner).__name__, self.mode, repr(frame)]).encode())
        digest.update(json.dumps(sorted(self.inner.get_vocab().items())).encode())
        digest.update(json.dumps([self.encode(text) for text in PROBES]).encode())
        return digest.hexdigest()


def _of_transformers(name: str, tokenizer: Any) -> TextTokenizer:
    pieces, shown = _Pieces(tokenizer), type(tokenizer).__name__
    limit = getattr(tokenizer, "context_length", None)
    try:
        frame = pieces.frame()
        if frame is None:
            raise ValueError("it has no padding, or puts a text's tokens apart")
        _check_rows(pieces, frame, limit or 77)
        fingerprint = pieces.fingerprint(frame)
    except Exception as error:  # a tokenizer may be any library's
        raise BackboneError(
            f"backbone '{printable(name, 300)}': its tokenizer {shown} frames texts in a way that promptfed does not "
            f"know ({reason(error)})"
        ) from error
    return TextTokenizer(pieces.encode, frame, pieces.words, pieces.follow, limit, fingerprint)


def _check_rows(pieces: _Pieces, frame: Frame, length: int) -> None:
    """Check that ``frame`` and padding make the rows that the model itself is given. Raises ValueError."""
    for text in PROBES:
        ids = [*frame.before, *pieces.encode(text), *frame.after]
        row = ids + [frame.pad] * (length - len(ids))
        if frame.last is not None:
            row[-1] = frame.last
        if len(ids) <= length - (frame.last is not None) and row != pieces.whole(text, length):
            raise ValueError(f"'{text}' becomes {_shown(pieces.whole(text, length))}, not {_shown(row)}")


def _shown(ids: Sequence[int]) -> str:
    return f"{list(ids[:12])}{'...' if len(ids) > 12 else ''}"


def _decoded(token: str, mark: str) -> str:
    """Return the text of a byte-level piece."""
    from open_clip.tokenizer import bytes_to_unicode

    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    piece = token.removeprefix(mark)
    if not all(letter in letters for letter in piece):
        return piece
    text = bytes(letters[letter] for letter in piece).decode("utf-8", errors="backslashreplace")
    return text if token.startswith(mark) else f"-{text}"


def _unchanged(text: str) -> str:
    return text
