"""Random language models, to be compared with their own plain forward pass, and tokenizers made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from promptfed.blackbox.oracles.local.language_model import LanguageModel
from promptfed.blackbox.oracles.query import Candidate, ScoreQuery
from promptfed.examples.base import TextItem
from promptfed.prompt_template import PromptTemplate

WORDS = (
    "the a movie film was is very good great terrible bad plot story actors and but not boring wonderful of it this "
    "review sentiment says positive negative news sports business world science answer question what when who"
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bpe() -> Any:
    """Byte-level BPE, as GPT-2's: no marker in front, words with the space before them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator([f"x {WORDS}"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<eos>", bos_token="<eos>")


@pytest.fixture(scope="session")
def sentencepiece() -> Any:
    """As Gemma's: <bos> in front, spaces as a mark of their own."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    built = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    built.normalizer = normalizers.Replace(" ", "▁")
    built.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"], show_progress=False
    )
    pieces = [*WORDS.split(), "\n", ".", ":"]
    built.train_from_iterator([word if k % 2 else f" {word}" for k in range(40) for word in pieces], trainer)
    built.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=built, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def wordpiece() -> Any:
    """As BERT's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *dict.fromkeys(WORDS.split()),
        ".",
        ":",
        "[",
        "]",
        "mask",
        "##s",
    ]
    built = Tokenizer(models.WordPiece({word: k for k, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    built.normalizer = normalizers.BertNormalizer()
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip


def _gpt2(size: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=size, n_positions=64, n_embd=32, n_layer=2, n_head=2,
                                      bos_token_id=0, eos_token_id=0))  # fmt: skip


def _llama(size: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                    num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=0)
    )  # fmt: skip


def _gemma(size: int) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(
        Gemma3TextConfig(vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=64,
                         sliding_window=16, layer_types=["sliding_attention", "full_attention"],
                         final_logit_softcapping=2.0, pad_token_id=0, eos_token_id=1, bos_token_id=2)
    )  # fmt: skip


def _bert(size: int) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                      intermediate_size=48, max_position_embeddings=64))  # fmt: skip


MADE_AS = {
    "gpt2": (_gpt2, "bpe"),
    "llama": (_llama, "bpe"),
    "gemma": (_gemma, "sentencepiece"),
    "bert": (_bert, "wordpiece"),
}


@pytest.fixture
def tiny_model(request: pytest.FixtureRequest) -> Callable[..., LanguageModel]:
    """``tiny_model("gpt2", template)``: a random model as an oracle, its weights so large that words matter."""

    def make(kind: str, template: str = "{{ prompt }} {{ text }} sentiment :", **words: str) -> LanguageModel:
        build, named = MADE_AS[kind]
        tokenizer = request.getfixturevalue(named)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build(len(tokenizer)).eval().requires_grad_(False)
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.3)
        return LanguageModel(
            f"tiny {kind}", PromptTemplate(template=template, words=words), model, tokenizer, masked=kind == "bert"
        )

    return make


@pytest.fixture
def ask() -> Callable[..., ScoreQuery]:
    """``ask(text, classes, prompt text or vectors)``."""

    def make(text: str, classes: tuple[str, ...], prompt: Any = "") -> ScoreQuery:
        candidate = Candidate(prompt) if isinstance(prompt, str) else Candidate(soft=prompt)
        return ScoreQuery(candidate, TextItem(text), classes, candidate.described())

    return make
