"""The tokenizer of a CLIP folder in transformers' format."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode

from promptfed.backbones.clip_hf_config import LEGACY_EOS, ClipConfig
from promptfed.errors import FormatError, reason
from promptfed.readers.files import MEGABYTE, read_bytes
from promptfed.readers.json_reader import read_json
from promptfed.readers.text import filled_lines

LARGEST = 200 * MEGABYTE
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
PROBES = ("A photo of a cat.", "it's 23 Gr\u00f6\u00dfen & more,  they've\tseen: \u732b #1!", "dog_house")
"""Texts by which two tokenizers with the same words are told apart."""
USUAL_FRAME = [49_406, 49_407]
START, STOP = "<|startoftext|>", "<|endoftext|>"


class FolderTokenizer(SimpleTokenizer):
    """A byte-pair tokenizer of the library ``tokenizers``, which stands for open_clip's own.

    Raises:
        FormatError: It frames texts otherwise than by one token before and one behind.
    """

    def __init__(self, tokenizer: Any) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        frame = tokenizer.encode("").ids
        if len(frame) != 2:
            raise FormatError(f"its tokenizer puts {len(frame)} tokens around a text, and CLIP's puts two")
        self._tokenizer = tokenizer
        self.sot_token_id, self.eot_token_id = frame
        self.byte_decoder = {letter: byte for byte, letter in bytes_to_unicode().items()}
        self.encoder = {
            word: number
            for word, number in tokenizer.get_vocab(with_added_tokens=False).items()
            if all(letter in self.byte_decoder for letter in word.removesuffix("</w>"))
        }
        self.decoder = {number: word for word, number in self.encoder.items()}

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of its words and of what it makes of some texts; empty: it is as open_clip's own."""
        frame = [self.sot_token_id, self.eot_token_id]
        words = {number: word for number, word in self.decoder.items() if number not in frame}
        ids = [self.encode(text) for text in PROBES]
        if frame == USUAL_FRAME:
            usual = SimpleTokenizer()
            usual_words = {number: word for number, word in usual.decoder.items() if number not in frame}
            if words == usual_words and ids == [usual.encode(text) for text in PROBES]:
                return ""
        return hashlib.sha256(json.dumps([sorted(words.items()), frame, ids]).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text`` without its frame."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def read_tokenizer(folder: Path, config: ClipConfig) -> FolderTokenizer:
    """Return the tokenizer in ``folder``: ``tokenizer.json``, else ``vocab.json`` with ``merges.txt``.

    Raises:
        FormatError: There is none, it is damaged, or does not fit ``config``.
        OSError: A file cannot be read.
    """
    if (folder / "tokenizer.json").is_file():
        library = read_tokenizer_file(folder / "tokenizer.json")
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        library = _from_merges(folder)
    else:
        raise FormatError("it holds neither tokenizer.json nor vocab.json with merges.txt")
    tokenizer = FolderTokenizer(library)
    check_vocabulary(library, config)
    frame = [token for token in (tokenizer.sot_token_id, tokenizer.eot_token_id) if token is not None]
    if any(token >= config.vocabulary for token in frame):
        raise FormatError(
            f"its tokenizer puts a text between tokens {frame}, but config.json says vocab_size {config.vocabulary}"
        )
    stop, largest = tokenizer.eot_token_id, max(library.get_vocab().values())
    if config.eos not in (LEGACY_EOS, stop):
        raise FormatError(f"its text is read at token {config.eos}, but its tokenizer ends a text with {stop}")
    if config.eos == LEGACY_EOS != stop and stop != largest:
        raise FormatError(
            f"its text is read at the largest token id, but its tokenizer ends a text with {stop} and has ids to "
            f"{largest}: set eos_token_id in config.json"
        )
    return tokenizer


def read_tokenizer_file(path: Path) -> Any:
    """Return the ``tokenizers.Tokenizer`` in ``path``. Raises FormatError if the library cannot read it."""
    from tokenizers import Tokenizer

    content = read_bytes(path, LARGEST)
    try:
        return Tokenizer.from_buffer(content)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library also panics, which is no Exception
        raise FormatError(f"{path.name} does not load: {reason(error)}") from error


def check_vocabulary(tokenizer: Any, config: ClipConfig) -> None:
    """Raise FormatError if ``tokenizer`` has ids without an embedding."""
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= config.vocabulary:
        raise FormatError(f"its tokenizer has ids to {largest}, but config.json says vocab_size {config.vocabulary}")


def _from_merges(folder: Path) -> Any:
    """Return CLIP's tokenizer with the vocabulary of an older folder."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    vocabulary = read_json(folder / "vocab.json")
    lines = [line for line in filled_lines(folder / "merges.txt") if not line.startswith("#version")]
    merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
    try:
        tokenizer = Tokenizer(BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=STOP))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        stop, start = ((word, vocabulary[word]) for word in (STOP, START))
        tokenizer.post_processor = processors.RobertaProcessing(stop, start, trim_offsets=False, add_prefix_space=False)
        tokenizer.add_special_tokens([START, STOP])
    except Exception as error:  # the library raises its own for vocabularies that do not fit
        raise FormatError(f"vocab.json and merges.txt do not make a tokenizer of CLIP's: {reason(error)}") from error
    return tokenizer
