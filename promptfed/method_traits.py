"""What a method says of itself: what it needs, trains, sends and keeps, for lists, checks and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from promptfed.frozen_model import Kind


class MethodTraits:
    """Attributes of a method's class, which are known before it is built."""

    name: ClassVar[str]
    paper: ClassVar[str]
    trains: ClassVar[str] = "nothing"
    """What is trained, in a few words with shapes."""
    keeps: ClassVar[str] = "images"
    """What never leaves the client."""
    access: ClassVar[Literal["white box", "black box", "any"]] = "white box"
    """Whether it needs the model itself (gradients, features) or only its scores."""
    model_kind: ClassVar[Kind] = "dual encoder"
    """The kind of white box that it works on; of no meaning for other ``access``."""
    only_texts: ClassVar[bool] = False
    """Whether its examples must be texts that are sorted into classes."""
    only_questions: ClassVar[bool] = False
    """Whether its examples must be questions about images."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """What the backbone (``Ability``) or the oracle (``OracleAbility``) must be able to do."""
    integer_uploads: ClassVar[frozenset[str]] = frozenset()
    """Names of uploads that hold whole numbers (a text, tokens) and that no client is sent."""
    aggregators: ClassVar[tuple[str, ...]] = ()
    """The aggregators that fit, the default first; empty: any, and the default is the mean."""
    for_sums: ClassVar[Mapping[str, str]] = {}
    """Defaults of options where the server learns a sum and no more."""
    classes_apart: ClassVar[bool] = False
    """Whether a class's score is the same whatever other classes there are to choose from; see ``scores_apart``."""
    makes_texts: ClassVar[bool] = False
    """Whether it makes synthetic texts, in the shared state (``prompts.synthetic_texts``)."""
    last_round_differs: ClassVar[bool] = False
    """Whether the last round differs from those before; then a finished run cannot have more."""
    remembers: ClassVar[bool] = False
    """Whether clients keep tensors for training alone (``processors.client_state.MEMORY``)."""
    paced: ClassVar[bool] = False
    """Whether each round's work depends on how many there are in all."""
    scores_peers: ClassVar[bool] = False
    """Whether clients score prompts of others (``Aggregator.sends_peers``)."""
