"""Random language models of every family with a tokenizer of words, and a run's setup around one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch

from promptfed.agreement import Agreement
from promptfed.examples.base import TextItem
from promptfed.language_models.model import LanguageModel
from promptfed.prompt_template import PromptTemplate
from promptfed.setup import Setup
from promptfed.types import ClientData, Split

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    *("the", "a", "movie", "film", "was", "is", "very", "good", "great", "terrible", "bad", "plot", "story", "actors"),
    *("and", "but", "not", "boring", "wonderful", "of", "it", "this", "review", "positive", "negative", "news"),
    *("sports", "business", "world", "science", "say", "which", "class", "fits", "best", "read", "text", "category"),
    *(".", ":", ","),
)
WIDTH, LAYERS, VOCABULARY = 32, 2, 100
FORM = PromptTemplate(
    template="{{ prompt }} {{ text }} it was {{ mask }}",
    words={"negative": "terrible", "positive": "great"},
    descriptions={"negative": "a bad review", "positive": "a good review"},
    prompts=("review :",),
)
CAUSAL_FORM = FORM.model_copy(update={"template": "{{ prompt }} {{ text }} it was"})
CLASSES = ("negative", "positive")
TEXTS = ("the film was good", "a boring plot and terrible actors", "very good story", "this movie is not good but bad")
LABELS = (1, 0, 1, 0)


@cache
def tokenizer() -> Any:
    """One token a word; [CLS] and [SEP] around a text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate((*MARKS, *WORDS))}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    built.normalizer, built.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    built.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), MARKS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=built, bos_token="[CLS]", eos_token="[SEP]", **names)


def transformer(name: str, layers: int = LAYERS) -> Any:
    """The model ``name`` of transformers, with the same random weights each time."""
    import transformers as t

    size = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": layers}
    causal = {**size, "num_attention_heads": 4, "max_position_embeddings": 64}
    build = {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**causal, num_key_value_heads=2)),
        "gemma": lambda: t.Gemma3ForCausalLM(
            t.Gemma3TextConfig(**causal, num_key_value_heads=1, head_dim=16, sliding_window=8)
        ),
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=layers, n_head=4, n_positions=64)
        ),
        "masked": lambda: t.BertForMaskedLM(t.BertConfig(**causal)),
        "bert": lambda: t.BertModel(t.BertConfig(**causal), add_pooling_layer=False),
        "t5": lambda: t.T5ForConditionalGeneration(
            t.T5Config(
                vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, num_heads=4, num_layers=layers, d_ff=48,
                decoder_start_token_id=0,
            )
        ),
    }[name]  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return build()


FAMILIES = {"llama": "causal", "gemma": "causal", "gpt2": "causal", "masked": "masked", "bert": "encoder",
            "t5": "encoder-decoder"}  # fmt: skip


def language_model(name: str, form: PromptTemplate | None = None, layers: int = LAYERS) -> LanguageModel:
    """The model ``name`` as promptfed asks it."""
    form = form or (FORM if name == "masked" else CAUSAL_FORM)
    return LanguageModel(f"lm:{name}", form, transformer(name, layers), tokenizer(), FAMILIES[name])  # type: ignore[arg-type]


def split(rows: Sequence[int] = range(4)) -> Split:
    """Some of the texts."""
    return Split(tuple(TextItem(TEXTS[row]) for row in rows), torch.tensor([LABELS[row] for row in rows]))


def client(number: int = 0, rows: Sequence[int] = range(4)) -> ClientData:
    """A client with some of the texts for every use."""
    part = split(rows)
    return ClientData(number, f"client {number}", (0, 1), part, part, part)


def setup(name: str = "llama", **agreement: Any) -> Setup:
    """A run's setup: two classes, two rounds."""
    agreed: Mapping[str, Any] = {"classes": CLASSES, "templates": FORM.prompts, "rounds": 2, "seed": 0, "domains": ()}
    return Setup(language_model(name), Agreement(**{**agreed, **agreement}))
