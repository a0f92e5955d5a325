"""The baseline without training and without a model: the class whose description has the words of the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor

from promptfed.blackbox.text.word_router import SCALE, WordRouter, described
from promptfed.examples.base import TextItem
from promptfed.method import METHODS, Method
from promptfed.prompt_state import PromptState
from promptfed.scores import mean_loss, predicted
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split, Update


@METHODS.register("description_words")
class DescriptionWords(Method):
    """Choose by the TF-IDF cosine of a text's words to the words of each class's description. Nothing is sent.

    It is what a router reaches that has read the descriptions of tools and nothing else.
    """

    name: ClassVar[str] = "descriptions"
    paper: ClassVar[str] = "TF-IDF: Sparck Jones 1972; a baseline"
    trains: ClassVar[str] = "nothing; words of descriptions are compared"
    keeps: ClassVar[str] = "texts"
    access: ClassVar[Literal["white box", "black box", "any"]] = "any"
    only_texts: ClassVar[bool] = True
    classes_apart: ClassVar[bool] = True
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)

    @property
    def rounds(self) -> int:
        return 1

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        split = data.val if len(data.val) else data.train
        scores = self.logits(NO_PROMPT, personal, self.setup.classes, split)
        loss = mean_loss(scores, split.labels, len(self.setup.classes))
        accuracy = (predicted(scores) == split.labels).double().mean().item()
        return Update(data.client, NO_PROMPT, max(1, len(split)), loss, accuracy), personal

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        names = list(dict.fromkeys((*self.setup.classes, *classes)))
        router = WordRouter(list(described(names, self.setup.model.form).values()))
        columns = [names.index(name) for name in classes]
        texts = (item.text if isinstance(item, TextItem) else item.name for item in split.items)
        return SCALE * router.cosines(texts)[:, columns]
