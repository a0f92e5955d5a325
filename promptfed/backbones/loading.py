"""Images loaded ahead of the tower that encodes them, in threads: decoding and resizing leave Python's lock.

What is loaded does not depend on the number of threads, and neither does the order, nor the first error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from promptfed.errors import DataError
from promptfed.examples.base import ImageItem, Item
from promptfed.threads import available_cpus

T = TypeVar("T")
V = TypeVar("V")

MOST_THREADS = 8
"""Threads that load images for a GPU, unless the user says otherwise; a CPU that encodes has one."""


def default_threads(device: torch.device) -> int:
    """Return how many threads load images for a tower on ``device``; 0 where there is one CPU for all."""
    spare = available_cpus() - 1
    return min(spare, MOST_THREADS if device.type == "cuda" else 1)


def loaded_ahead(
    items: Sequence[T], load: Callable[[T], V], may_leave: Callable[[T], bool], threads: int, ahead: int
) -> Generator[V]:
    """Yield ``load(item)`` of all items, in order.

    Close the iterator, or use it up: then no thread is left at work.

    Args:
        items: What is loaded.
        load: Loads one of them.
        may_leave: Whether an item may be loaded in another thread than the caller's. Others are loaded at their turn.
        threads: How many threads load; 0: all is loaded in the caller's.
        ahead: How many items beyond the one that is waited for may be loaded.

    Raises:
        Exception: What ``load`` raises for the first item that it cannot load. Those before it are yielded.
    """
    if threads < 1 or len(items) < 2:
        yield from map(load, items)
        return
    coming = iter(items)
    waiting: deque[tuple[T, Future[V] | None]] = deque()
    torch_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="promptfed-images", initializer=_leave_cores_alone)

    def begin(count: int) -> None:
        for item in islice(coming, count):
            waiting.append((item, pool.submit(load, item) if may_leave(item) else None))

    try:
        first = load(next(coming))  # here, with all that is made once for the first image
        begin(max(1, ahead))
        yield first
        while waiting:
            item, future = waiting.popleft()
            value = load(item) if future is None else future.result()
            begin(1)
            yield value
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)  # what the pool's threads asked for is torch's default for new threads


def is_free_to_leave(item: Item, *, is_thread_safe: bool) -> bool:
    """Return whether ``item`` may be loaded in another thread; large images take turns, for their memory.

    Args:
        item: What is loaded.
        is_thread_safe: Whether the model's preprocessing is.
    """
    if not (is_thread_safe and isinstance(item, ImageItem) and item.is_thread_safe):
        return False
    try:
        return not item.is_large()
    except DataError:  # which loading meets again, at its turn
        return False


def batch_on(device: torch.device, images: Sequence[Tensor]) -> Tensor:
    """Return preprocessed images as one batch on the device; the copy to a GPU does not wait for its work."""
    pixels = torch.stack(list(images))
    if device.type != "cuda":
        return pixels.to(device)
    return pixels.pin_memory().to(device, non_blocking=True)


def _leave_cores_alone() -> None:
    """Have torch do a thread's work in that thread: the tower has the others."""
    torch.set_num_threads(1)
