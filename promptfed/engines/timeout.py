"""A limit on one client's time, where its work runs in this very process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(KeyboardInterrupt):
    """A client's time is up.

    It passes where Ctrl-C passes: through code that catches every Exception, and through requests that are under way.
    """


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise OutOfTime inside the block once it has lasted ``seconds``.

    It interrupts Python code alone, on POSIX, in the main thread. Elsewhere it does nothing: the caller must check the
    clock after the block.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    is_open = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        if is_open:
            raise OutOfTime(f"after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        # Inside the try: a very short limit ends before the next line, and the timer must not outlive the block.
        signal.setitimer(signal.ITIMER_REAL, seconds, max(seconds, 1.0))  # again, should code have swallowed the first
        yield
    finally:
        is_open = False  # first, by an assignment alone: a signal is handled at calls, and would leave the timer on
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
