"""Comparisons of a suite side by side, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from promptfed.bench.entry_result import Terms, entry_result
from promptfed.bench.suite import Entry
from promptfed.errors import RunError
from promptfed.plugins import load_plugins, loaded_plugins
from promptfed.printable import printable
from promptfed.progress import ComparisonProgress
from promptfed.threads import available_cpus
from promptfed.training import Interrupted, OutOfBudget

POLL = 0.2
"""Seconds between two looks at whether a process has ended and whether to stop."""
WORK = "from promptfed.bench.side_by_side import work; work()"
Process = subprocess.Popen[str]


def side_by_side(
    entries: Mapping[str, Entry],
    jobs: int,
    folder: Path,
    terms: Terms,
    progress: ComparisonProgress,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run ``jobs`` comparisons at a time, and yield the name and the result of each as it ends.

    Each process has its share of the cores, unless ``terms`` say how many threads it has. It stops after the client
    that is under way when its standard input ends, so it outlives this process no longer than that.

    Raises:
        Interrupted: ``should_stop`` said so, or a budget is spent; what was under way is saved.
        RunError: A process died.
    """
    jobs = max(1, min(jobs, len(entries)))
    terms = replace(terms, threads=terms.threads or max(1, available_cpus() // jobs))
    about = {"terms": asdict(terms), "plugins": list(loaded_plugins())}
    waiting = dict(entries)
    running: dict[str, Process] = {}
    with tempfile.TemporaryDirectory() as place:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    key = next(iter(waiting))
                    entry = waiting.pop(key)
                    order = {**about, "entry": entry.model_dump(mode="json"), "folder": str(folder / key)}
                    running[key] = _begin({**order, "result": str(Path(place, key))})
                    progress.note(f"{key}: {entry.title}")
                for key in [key for key, process in running.items() if process.poll() is not None]:
                    result = _result_of(running.pop(key), Path(place, key), key)
                    left = len(waiting) + len(running)
                    progress.note(f"{key}: {result.get('left_out') or 'done'} ({left} left)")
                    yield key, result
                if (waiting or running) and should_stop():
                    left = len(waiting) + len(running)
                    raise Interrupted(f"{left} of {len(entries)} comparisons are not finished")
                time.sleep(POLL)
        except KeyboardInterrupt:  # the second one: at once
            for process in running.values():
                process.kill()
            raise
        finally:
            _end(list(running.values()))


def _begin(order: Mapping[str, Any]) -> Process:
    """Begin a process in a session of its own, which no Ctrl-C of the terminal reaches."""
    command = [sys.executable, "-P", "-c", WORK]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    return process


def _end(processes: Sequence[Process]) -> None:
    """Tell all processes to stop, and wait until they have."""
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
        raise


def _result_of(process: Process, file: Path, key: str) -> dict[str, Any]:
    _end([process])
    if process.returncode or not file.exists():
        raise RunError(
            f"the process of '{printable(key, 80)}' ended with code {process.returncode}: what is finished is kept, "
            "and the same command goes on"
        )
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if "stopped" in result:
        raise OutOfBudget(f"{printable(key, 80)}, {result['stopped']}")
    return result


def work() -> None:
    """Run the comparison that the first line of standard input tells of, until it ends or standard input does."""
    order = json.loads(sys.stdin.readline())
    is_over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        is_over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    load_plugins(order["plugins"])
    entry, terms = Entry.model_validate(order["entry"]), Terms(**order["terms"])
    try:
        result = entry_result(entry, Path(order["folder"]), terms, ComparisonProgress(), is_over.is_set)
    except OutOfBudget as spent:
        result = {"stopped": spent.where}
    except Interrupted as stopped:
        sys.exit(stopped.code)
    Path(order["result"]).write_text(json.dumps(result), encoding="utf-8")
