"""What the server checks before it merges, so that a client's fault costs that client its own update and no more.

Four looks: at an update's size before anything is decoded (``most_bytes``), at every reply by itself
(``check_update``), at the lengths of a round's changes (``outliers``), and at the shares that their weights give them
(``limited``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from promptfed.method import Shape
from promptfed.printable import printable
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Reply, Update
from promptfed.usage import Usage

MOST_SAMPLES = 10**9
"""More examples than this no client has."""
LARGEST_LOSS = 1e9
LARGEST_COUNT = 10**15
"""Of bytes, queries and tokens of one client in one round."""
LONGEST_SECONDS = 1e9
MOST_VALUES = 10**6
"""Numbers in a tensor whose length is the client's choice (a text, a list of seeds)."""
BYTES_A_NUMBER, SPARE_BYTES = 16, 1_000_000
"""An update may have so many bytes for each number that its method sends, and so many besides: float32 has 4, and what
a processor may make of it (an index and a value, a masked word, scales) fits as well."""
LONGEST_FAILURE = 1000
OUTLIER_RATIO = 1e6
"""An update whose change is so many times the round's median change is refused."""
FEWEST_TO_FILTER = 3
"""Updates from which on the median change says what is usual; of two, either may be the odd one."""
SMALLEST_SCALE = 1e-3
"""A median change, or a prompt, shorter than this counts as this long, so that a round in which most changed nothing
refuses nobody who did."""


@dataclass(frozen=True)
class Expected:
    """What a client's reply must look like.

    Attributes:
        shapes: names and shapes of the tensors to be sent.
        sent: what the client was sent; a tensor that comes back under its name is of the same kind, whole or real.
        samples: the most examples that the client can have trained on; None if nobody knows.
        measures: whether each client has a loss and an accuracy. A search of a black box may have asked nothing.
        figures: names of what the run's outgoing processors measure.
    """

    shapes: Mapping[str, Shape]
    sent: PromptState = field(default_factory=PromptState)
    samples: int | None = None
    measures: bool = True
    figures: Sequence[str] = ()


def most_bytes(shapes: Mapping[str, Shape]) -> int:
    """Return how many bytes the tensors of an update may have as they travel, processors included.

    Args:
        shapes: Names and shapes of the tensors that the method sends. One whose length is the client's choice counts
            with ``MOST_VALUES`` numbers.
    """
    numbers = sum(MOST_VALUES if None in shape else math.prod(filter(None, shape)) for shape in shapes.values())
    return BYTES_A_NUMBER * numbers + SPARE_BYTES


def check_update(reply: Reply, expected: Expected) -> Reply:
    """Return ``reply`` fit to be merged and added up, or marked as refused with the reason in ``failure``.

    A count of samples above what the client can have is lowered to that. A reply that is refused, or was a failure
    from the start, keeps none of its tensors and figures, and of its times and costs those that are possible.
    """
    if reply.failure:
        return _emptied(reply, printable(_shown(reply.failure), LONGEST_FAILURE))
    if why := _fault(reply, expected):
        return refused(reply, why)
    update = reply.update
    limit = update.samples if expected.samples is None else max(1, expected.samples)
    return replace(reply, update=replace(update, samples=min(update.samples, limit)))


def refused(reply: Reply, why: str) -> Reply:
    """``reply`` without its update, which is not used because of ``why``."""
    return _emptied(reply, f"refused: client {reply.client} sent {why} in round {reply.round}")


def _fault(reply: Reply, expected: Expected) -> str:
    """Return in words what is wrong with ``reply``; "" if all is well."""
    update = reply.update
    if not isinstance(update, Update) or not isinstance(update.shared, PromptState):
        return "something that is no update"
    if not isinstance(reply.personal, PromptState):
        return "something that is no personal prompt"
    if update.client != reply.client or isinstance(update.client, bool):
        return f"an update of client {_shown(update.client)}"
    return (
        _tensor_fault(update.shared, expected)
        or ("" if reply.personal.is_finite() else "numbers that are not finite")
        or _figure_fault(update, expected)
        or _cost_fault(reply)
        or _processor_fault(reply, expected)
    )


def _tensor_fault(tensors: PromptState, expected: Expected) -> str:
    shapes = expected.shapes
    if set(tensors) != set(shapes):
        names = [printable(name, 64) for name in sorted(tensors)[:20]]
        return f"names {names} instead of {sorted(shapes)}"
    for name, tensor in tensors.items():
        if not _fits(tensor.shape, shapes[name]):
            return f"'{name}' is {tuple(tensor.shape)} instead of {shapes[name]}"
        if tensor.numel() > MOST_VALUES and None in shapes[name]:
            return f"'{name}' with {tensor.numel():,} numbers, where {MOST_VALUES:,} are allowed"
        like = expected.sent.get(name)
        if tensor.is_complex() or (like is not None and tensor.is_floating_point() != like.is_floating_point()):
            expectation = "" if like is None else f" instead of {like.dtype}"
            return f"'{name}' as {tensor.dtype}{expectation}"
    return "" if tensors.is_finite() else "numbers that are not finite"


def _figure_fault(update: Update, expected: Expected) -> str:
    if not _is_count(update.samples, 1, MOST_SAMPLES):
        return f"an update for {_shown(update.samples)} samples"
    if not expected.measures and _is_nan(update.loss) and _is_nan(update.accuracy):
        return ""
    if not _is_number(update.loss, -LARGEST_LOSS, LARGEST_LOSS):
        return f"a loss of {_shown(update.loss)}"
    if not _is_number(update.accuracy, 0, 1):
        return f"an accuracy of {_shown(update.accuracy)}"
    return ""


def _processor_fault(reply: Reply, expected: Expected) -> str:
    figures = reply.processor_figures
    if not isinstance(figures, Mapping) or not set(figures) <= set(expected.figures):
        return "figures of processors that the run has not"
    wrong = [value for value in figures.values() if not _is_number(value, -LARGEST_LOSS, LARGEST_LOSS)]
    return f"a processor's figure of {_shown(wrong[0])}" if wrong else ""


def _cost_fault(reply: Reply) -> str:
    for name in ("seconds", "start_seconds"):
        value = getattr(reply, name)
        if not _is_number(value, 0, LONGEST_SECONDS) and not (value is None and name == "start_seconds"):
            return f"{name} of {_shown(value)}"
    for name in ("bytes_up", "bytes_down"):
        value = getattr(reply, name)
        if value is not None and not _is_count(value, 0, LARGEST_COUNT):
            return f"{name} of {_shown(value)}"
    if not isinstance(reply.usage, Usage):
        return "something that is no usage"
    for entry in fields(reply.usage):
        value = getattr(reply.usage, entry.name)
        if not _is_number(value, 0, LARGEST_COUNT):
            return f"{entry.name} of {_shown(value)}"
    return ""


def _emptied(reply: Reply, failure: str) -> Reply:
    """``reply`` as a failure: nothing of it can spoil a sum, a log or a checkpoint."""
    shared = reply.update.shared if isinstance(reply.update, Update) else NO_PROMPT
    size = sum(t.nbytes for t in shared.values()) if isinstance(shared, PromptState) else 0
    keeps = isinstance(reply.personal, PromptState) and reply.personal.is_finite()
    safe = Reply(
        client=reply.client,
        round=reply.round,
        update=Update(reply.client, NO_PROMPT, 0, math.nan, math.nan),
        personal=reply.personal if keeps else NO_PROMPT,
        seconds=0.0,
        failure=failure,
        bytes_up=size or None,
    )
    for name in ("seconds", "start_seconds", "bytes_up", "bytes_down", "usage"):
        if getattr(reply, name) is None:
            continue
        with_it = replace(safe, **{name: getattr(reply, name)})
        if not _cost_fault(with_it):
            safe = with_it
    return safe


# ------------------------------------------------------------------------------------------------- a round's updates


def outliers(
    updates: Sequence[Update], sent: Mapping[int, PromptState], longest: float | None = None
) -> dict[int, str]:
    """Client -> why its update must not be merged, for those whose change is beyond all measure.

    ``longest``: refuse also a change that is so many times the median change of three updates or more, however short
    that is (norm filtering).

    The measure is the median length of the round's changes (of an even number, the shorter of the two in the middle),
    but at least the length of the prompt that was sent: near convergence changes are short, and a client with something
    new to say is no outlier. A client that is alone is measured by the prompt, or by 1 if that is shorter.
    A tensor that was not sent down (a fitness, a ranking) counts with its own length; whole numbers do not count.
    """
    lengths = {update.client: _length(_changes(update.shared, sent[update.client])) for update in updates}
    prompts = [_length({n: t for n, t in sent[u.client].items() if n in u.shared}) for u in updates]
    typical = lower_median(list(lengths.values())) if len(updates) > 1 else 1.0
    scale = max(typical, lower_median(prompts), SMALLEST_SCALE)
    limit = math.inf
    if longest is not None and len(updates) >= FEWEST_TO_FILTER and typical:
        limit = longest * typical
    reasons = {}
    for client, length in lengths.items():
        if length > OUTLIER_RATIO * scale:
            reasons[client] = f"a change {length / scale:.0e} times as long as is usual"
        elif length > limit:
            ratio = f"{length / typical:.1f} times as long as the round's median"
            reasons[client] = f"a change {ratio}, where {longest:g} is allowed"
    return reasons


def lower_median(values: Sequence[float]) -> float:
    """Return the value in the middle; of an even number, the smaller of the two."""
    return sorted(values)[(len(values) - 1) // 2]


def _changes(tensors: PromptState, sent: PromptState) -> dict[str, Tensor]:
    return {
        name: tensor.double() - sent[name].double() if name in sent and sent[name].shape == tensor.shape else tensor
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
    }


def _length(tensors: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all real numbers, in float64, where the square of no float32 is infinite."""
    squares = (tensor.double().square().sum().item() for tensor in tensors.values() if tensor.is_floating_point())
    return math.sqrt(sum(squares))


def limited(updates: Sequence[Update], max_share: float) -> list[Update]:
    """Return ``updates`` with lower sample counts of those that would have too large a share of all samples.

    No client has more than ``max_share``, or than twice an even share where that is more. The others' counts stay as
    they are, so among them a weighted rule weighs as before.
    """
    share = max(max_share, 2 / len(updates))
    if share >= 1:
        return list(updates)
    counts = sorted((update.samples for update in updates), reverse=True)
    ceiling = counts[0]
    for above in range(len(counts)):
        if counts[above] <= share * sum(min(count, counts[above]) for count in counts):
            ceiling = counts[above]  # nobody has more than the share if all are lowered to this one's count
            if above:
                # between this count and the one before lies the largest that keeps to the share
                ceiling = max(ceiling, int(share * sum(counts[above:]) / (1 - share * above) + 1e-9))
            break
    return [replace(update, samples=min(update.samples, ceiling)) for update in updates]


# ------------------------------------------------------------------------------------------------------- values


def _is_count(value: object, least: int, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= largest


def _is_number(value: object, least: float, largest: float) -> bool:
    """Whether it is a number in that range; comparing refuses NaN, and a whole number too large for a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= largest


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _shown(value: object) -> str:
    """``value`` in a few characters, whatever it is: Python refuses to print whole numbers of 5,000 digits."""
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**20):
        return str(value)
    if isinstance(value, int):
        size = f"10^{int((value.bit_length() - 1) * math.log10(2))}"
        return f"{size} or more" if value > 0 else f"-{size} or less"
    return value if isinstance(value, str) else f"a {type(value).__name__}"


def _fits(shape: torch.Size, expected: Shape) -> bool:
    return len(shape) == len(expected) and all(w is None or s == w for s, w in zip(shape, expected, strict=True))
