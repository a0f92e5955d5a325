"""Sort texts or images, or answer questions, with a black-box bundle and its oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from promptfed.blackbox.oracles.exact_match import final_answer
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.tokens.base import TokenPromptMethod
from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.examples.base import FileItem, TextItem
from promptfed.export.blackbox_bundle import BlackBoxBundle
from promptfed.export.folder import fitting
from promptfed.export.predict import Prediction, checked_classes, ranked, unlabelled
from promptfed.setup import Setup


class BlackBoxPredictor:
    """A bundle joined with its oracle again (``load_bundles_oracle``). Raises ConfigError if its method is not
    installed."""

    def __init__(self, bundle: BlackBoxBundle, oracle: Oracle) -> None:
        meta = bundle.meta
        self.bundle, self.oracle = bundle, oracle
        self.method = build_method(meta.method, meta.method_options, Setup(oracle, meta))
        if isinstance(self.method, TokenPromptMethod):
            with fitting(bundle):
                self.method.check_agreed(bundle.shared)  # the tokens are those whose digest is in the checked prompt

    def predict(self, examples: Sequence[str], classes: Sequence[str] | None = None, top: int = 5) -> list[Prediction]:
        """The ``top`` best classes of every text (of an image bundle: image file); of questions, what is answered.

        Shares are a softmax over the scores of all the classes asked for. Raises ConfigError as ``checked_classes``
        does, DataError for images that cannot be read, OracleError or BudgetExhausted where the oracle does.
        """
        meta = self.bundle.meta
        if meta.examples == "questions":
            return self._answers(examples)
        names = checked_classes(meta.classes if classes is None else classes, top)
        if not examples:
            return []
        images = meta.examples == "images"
        items = [FileItem(Path(example)) if images else TextItem(example) for example in examples]
        with torch.no_grad(), fitting(self.bundle):
            logits = self.method.client_logits(self.bundle.prompt, names, unlabelled(items))
        return ranked([Path(example) if images else example for example in examples], logits, names, top)

    def _answers(self, questions: Sequence[str]) -> list[Prediction]:
        prompt, form = self.bundle.candidate, self.oracle.form
        if prompt is None:
            raise ConfigError(f"{self.method.name} has no single prompt that a question could be answered with")
        texts = [form.render(prompt.text, question) for question in questions]
        said = self.oracle.generate(texts, max_tokens=form.answer_tokens, stop=form.stop)
        found = [final_answer(text) or text.strip() for text in said]
        return [
            Prediction(question, ((answer, 1.0),) if answer else ())
            for question, answer in zip(questions, found, strict=True)
        ]
