"""The layers below everything that an insert trains: what they make of a text is computed once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from promptfed.language_models.insert import Insert
from promptfed.language_models.row_batches import padded_rows

LOG = logging.getLogger(__name__)
MOST_BYTES = 2**28
"""Of states that are remembered: 3,000 texts of 32 tokens at a width of 640 in float32."""
Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class LowerStates:
    """States of some rows below ``layer``.

    Attributes:
        layer: How many layers need not compute; 0: all do.
        states: Of each row, ``(length, width)``, without gradients.
        known: The tokens of those rows whose states were there already.
    """

    layer: int = 0
    states: Sequence[Tensor] = ()
    known: int = 0


class LowerLayers:
    """Remembers what the lowest layers of a frozen ``model`` make of rows of tokens, as long as nothing changes them.

    A prefix that nobody trains does change them, and always in the same way: it is a part of what the states are
    remembered under. Those of one such prefix are held at a time.

    A row passes through these layers alone. So its states depend on no other row and on nothing that was read before:
    a run that goes on in another process ends with the same bits. They differ from those of a padded batch by rounding.

    Args:
        model: A model of transformers. What is below is a part of the encoder, where it has one.
        layers: How many layers it has.
        most_bytes: Of what is remembered. States of further rows are computed each time.
    """

    def __init__(self, model: Any, layers: int, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._layers = "", list[Any]()
        for path, part in model.named_modules():
            if isinstance(part, torch.nn.ModuleList) and len(part) == layers > 0:
                self._path, self._layers = path, list(part)
                break
        self._has_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
        self.most_bytes, self.bytes = most_bytes, 0
        self._key: tuple[Any, ...] = ()
        self._known: dict[tuple[int, ...], Tensor] = {}
        self._agrees: dict[int, bool] = {}
        self._is_full = self._gives_more = False  # gives_more: a layer returns more than states

    def lowest(self, insert: Insert) -> int:
        """Return how many layers lie below all that ``insert`` trains; 0 where it cannot be said."""
        if insert.soft is not None or not self._layers:
            return 0
        places = [self._layer_of(path) for path in (*insert.low_rank, *insert.ia3)]
        if insert.prefix is not None:
            places.append(insert.frozen_below)
        return min(places, default=0)

    def _layer_of(self, path: str) -> int:
        if self._path and path.startswith(f"{self._path}."):
            return int(path[len(self._path) + 1 :].partition(".")[0])
        return len(self._layers) if self._has_decoder and "decoder" in path.split(".") else 0

    def states(self, rows: Rows, insert: Insert, read: Callable[[Rows], Tensor]) -> LowerStates:
        """Return the states of ``rows`` below what ``insert`` trains.

        Args:
            rows: Token ids of each row, one or more rows.
            insert: What is read beside them.
            read: Reads some rows with it, and returns something that depends on all their tokens.
        """
        layer = self.lowest(insert)
        if not layer or not self._agreement(layer, rows, read):
            return LowerStates()
        key = (layer, *_frozen_part(insert, layer, len(self._layers)))
        if key != self._key:
            self._key, self.bytes = key, 0
            self._known.clear()
        states, known = [], 0
        for row in map(tuple, rows):
            if row in self._known:
                known += len(row)
                states.append(self._known[row])
                continue
            states.append(self._alone(row, layer, read))
            self._remember(row, states[-1])
        return LowerStates(layer, states, known)

    def _remember(self, row: tuple[int, ...], states: Tensor) -> None:
        size = states.numel() * states.element_size()
        if self.bytes + size <= self.most_bytes:
            self._known[row] = states
            self.bytes += size
        elif not self._is_full:
            self._is_full = True
            LOG.info(
                "states below layer %d of %d texts fill %.0f MB; those of others are computed each time",
                self._key[0], len(self._known), self.bytes / 2**20,
            )  # fmt: skip

    @torch.no_grad()
    def _alone(self, row: Sequence[int], layer: int, read: Callable[[Rows], Tensor]) -> Tensor:
        """Return the states ``(length, width)`` below ``layer``; the layers from there on do not compute."""
        outputs: list[Any] = []
        hook = self._layers[layer - 1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            with _instead(self._layers[layer:], lambda *inputs, **more: outputs[-1]):
                read([row])
        finally:
            hook.remove()
        states: Tensor = outputs[-1][0] if isinstance(outputs[-1], tuple) else outputs[-1]
        return states[0]

    @contextmanager
    def given(self, lower: LowerStates, batch: Sequence[int]) -> Iterator[None]:
        """Have the model read the rows ``batch`` from their states on; its layers below do not compute.

        The first layer does where it gives more than states, such as T5's biases of positions.
        """
        if not lower.layer:
            yield
            return
        states, _ = padded_rows([lower.states[row] for row in batch])
        below = self._layers[: lower.layer]
        outputs: list[Any] = [states]

        def first(module: Any, inputs: Any, output: Any) -> Any:
            outputs.append((states, *output[1:]))
            return outputs[-1]

        hooks = [layer.register_forward_hook(first) for layer in below[:1] if self._gives_more]
        try:
            with _instead(below[len(hooks) :], lambda *inputs, **more: outputs[-1]):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def _agreement(self, layer: int, rows: Rows, read: Callable[[Rows], Tensor]) -> bool:
        """Return whether the model says the same from the states below ``layer`` on; tried once, on two rows.

        Layers may pass something else on to those above them, keys and values, say.
        """
        if layer not in self._agrees:
            few = [min(rows, key=len), max(rows, key=len)]
            kinds: list[type] = []
            hook = self._layers[0].register_forward_hook(lambda module, inputs, output: kinds.append(type(output)))
            try:
                expected = read(few).float()
            finally:
                hook.remove()
            self._gives_more = bool(kinds) and issubclass(kinds[0], tuple)
            try:
                lower = LowerStates(layer, [self._alone(row, layer, read) for row in few])
                with self.given(lower, range(len(few))):
                    found = read(few)
            except Exception as error:  # models of all kinds raise their own
                LOG.debug("lower layers cannot be left out: %s: %s", type(error).__name__, error)
                self._agrees[layer] = False
                return False
            allowed = min(0.1, 1000 * torch.finfo(found.dtype).eps) * expected.abs().max()
            self._agrees[layer] = bool((found.float() - expected).abs().max() <= allowed)
        return self._agrees[layer]


def _frozen_part(insert: Insert, layer: int, layers: int) -> tuple[Any, ...]:
    """Return what tells a prefix below ``layer`` from another one; empty: there is none."""
    if insert.prefix is None:
        return ()
    below = insert.prefix.detach()[:, : insert.prefix.shape[1] // layers * layer].float().cpu().contiguous()
    return (*below.shape, hashlib.sha256(below.numpy().tobytes()).hexdigest())


@contextmanager
def _instead(layers: Sequence[Any], forward: Callable[..., Any]) -> Iterator[None]:
    """Have each of ``layers`` return what ``forward`` does, and compute nothing."""
    earlier = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = forward
    try:
        yield
    finally:
        for layer, own in zip(layers, earlier, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own
