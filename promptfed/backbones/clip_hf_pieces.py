"""The tokenizers of SigLIP folders in transformers' format: SentencePiece of SigLIP, Gemma's of SigLIP 2.

Texts are cleaned as in training: lower case, and for SigLIP without punctuation, so "a photo of a cat." loses its full
stop. The end token stands behind the words; padding is on the right.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from promptfed.backbones.clip_hf_config import ClipConfig
from promptfed.backbones.clip_hf_tokens import check_vocabulary, read_tokenizer_file
from promptfed.errors import FormatError, reason
from promptfed.printable import printable
from promptfed.readers.files import read_bytes
from promptfed.readers.json_reader import LIMITS, parse_json

TOKENIZER, SETTINGS, SENTENCE_PIECE = "tokenizer.json", "tokenizer_config.json", "spiece.model"
UNLIMITED = re.compile(rb'("model_max_length"\s*:\s*)\d{20,}')
"""The length of a tokenizer without one, a number that no 64 bits hold."""
PUNCTUATION = str.maketrans("", "", string.punctuation)


def canonical(text: str) -> str:
    """Return ``text`` in lower case without punctuation, with single blanks between words."""
    return re.sub(r"\s+", " ", text.lower().translate(PUNCTUATION)).strip()


def lowered(text: str) -> str:
    """Return ``text`` in lower case."""
    return text.lower()


CLEANING: dict[str, tuple[Callable[[str], str], str, str]] = {
    "SiglipTokenizer": (canonical, "</s>", "</s>"),
    "GemmaTokenizer": (lowered, "<eos>", "<pad>"),
    "GemmaTokenizerFast": (lowered, "<eos>", "<pad>"),
    "Siglip2Tokenizer": (lowered, "<eos>", "<pad>"),
    "Siglip2TokenizerFast": (lowered, "<eos>", "<pad>"),
}
"""Tokenizer class -> how texts are cleaned, its end token, its padding."""


class PieceTokenizer:
    """A tokenizer of the library ``tokenizers``, with what ``text_tokenizer`` asks of one of transformers.

    Args:
        tokenizer: From the library.
        clean: What is done to a text before.
        end: The id behind each text.
        pad: The id of padding.
        context_length: The most tokens of a text.
    """

    sep_token_id = None

    def __init__(self, tokenizer: Any, clean: Callable[[str], str], end: int, pad: int, context_length: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self.clean_fn = tokenizer, clean
        self.eos_token_id, self.pad_token_id, self.context_length = end, pad, context_length
        self.all_special_ids = sorted(tokenizer.get_added_tokens_decoder())

    def __call__(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        max_length: int | None = None,
        **_: Any,
    ) -> dict[str, list[int]]:
        """Return ``{"input_ids": ids}`` as a tokenizer of transformers does."""
        ids = self.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": ids + [self.pad_token_id] * ((max_length or 0) - len(ids) if padding else 0)}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of ``text``."""
        ids: list[int] = self._tokenizer.encode(self.clean_fn(text), add_special_tokens=False).ids
        return [*ids, self.eos_token_id] if add_special_tokens else ids

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the token of each id."""
        return [self._tokenizer.id_to_token(number) for number in ids]

    def get_vocab(self) -> dict[str, int]:
        """Return token -> id."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        return vocabulary


def read_piece_tokenizer(folder: Path, config: ClipConfig) -> Any:
    """Return the tokenizer in ``folder``: ``tokenizer.json``, else ``spiece.model``.

    Raises:
        FormatError: There is none, it is damaged, of another kind, or does not fit ``config``.
        OSError: A file cannot be read.
    """
    table = _settings(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    named = table.get("tokenizer_class") or "SiglipTokenizer"
    if named not in CLEANING:
        raise FormatError(
            f"its tokenizer is {printable(named, 60)}; how texts are cleaned is known of {', '.join(CLEANING)} only"
        )
    if table.get("padding_side", "right") != "right":
        raise FormatError(
            f"{SETTINGS} says padding_side 'left': SigLIP was trained with padding on the right; set it so"
        )
    if not (folder / TOKENIZER).is_file():
        return _sentence_piece(folder, config)
    library = read_tokenizer_file(folder / TOKENIZER)
    check_vocabulary(library, config)
    clean, *usual = CLEANING[named]
    end, pad = (
        _token_id(library, table.get(name), token)
        for name, token in zip(("eos_token", "pad_token"), usual, strict=True)
    )
    _check_end(library, end)
    return PieceTokenizer(library, clean, end, pad, config.context_length)


def _settings(path: Path) -> dict[str, Any]:
    try:
        table = parse_json(UNLIMITED.sub(rb"\g<1>0", read_bytes(path, LIMITS.size)))
    except FormatError as error:
        raise FormatError(f"{SETTINGS} is not usable JSON: {error}") from error
    if not isinstance(table, dict):
        raise FormatError(f"{SETTINGS} is not a JSON object")
    return table


def _token_id(library: Any, named: Any, usual: str) -> int:
    token = named.get("content") if isinstance(named, dict) else named
    number = library.token_to_id(token if isinstance(token, str) else usual)
    if number is None:
        raise FormatError(f"its tokenizer has no token '{printable(token or usual, 40)}'")
    return int(number)


def _check_end(library: Any, end: int) -> None:
    """Raise FormatError if the tokenizer puts other tokens around a text; one without a frame gets its end token."""
    frame = library.encode("").ids
    if frame not in ([], [end]):
        raise FormatError(f"its tokenizer puts the tokens {frame[:5]} around a text; SigLIP's is the end token alone")


def _sentence_piece(folder: Path, config: ClipConfig) -> Any:
    """Return transformers' tokenizer of ``spiece.model``, which needs the package sentencepiece."""
    if not (folder / SENTENCE_PIECE).is_file():
        raise FormatError(f"it holds neither {TOKENIZER} nor {SENTENCE_PIECE}")
    try:
        from transformers import SiglipTokenizer

        tokenizer = SiglipTokenizer(vocab_file=str(folder / SENTENCE_PIECE))
        tokenizer.context_length = config.context_length
    except Exception as error:  # of transformers, protobuf and sentencepiece, or that one of them is missing
        raise FormatError(
            f"{SENTENCE_PIECE} does not load ({reason(error)}): pip install sentencepiece protobuf, or give a folder "
            f"with {TOKENIZER}"
        ) from error
    largest = len(tokenizer) - 1
    if largest >= config.vocabulary:
        raise FormatError(f"its tokenizer has ids to {largest}, but config.json says vocab_size {config.vocabulary}")
    return tokenizer
