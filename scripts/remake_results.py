"""Make the tables of docs/results.md again: run each command block of the page, and keep what it prints.

    python scripts/remake_results.py --list
    python scripts/remake_results.py --only forecast,tools
    python scripts/remake_results.py --out results --data-root DATA

Each block has a folder of its own with ``commands.sh``, ``output.txt`` and the runs. All of them take days on two
cores. With the same ``--out`` blocks that have ended well are kept, unless the page has other commands now; a block
that was stopped begins anew. Blocks that need photographs or texts of one's own are left out without ``--data-root``
(default: the environment variable PROMPTFED_DATA).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
DATA = "PROMPTFED_DATA"
RUNS = re.compile(r"^(promptfed|python scripts/)", re.MULTILINE)
"""What a line of a block begins with if the block makes something."""


@dataclass(frozen=True)
class Block:
    """Commands of the page that stand together, as bash takes them."""

    heading: str
    number: int
    commands: str

    @property
    def name(self) -> str:
        """Name of its folder."""
        return "-".join([*re.findall(r"[a-z0-9]+", self.heading.lower())[:6], str(self.number)])

    @property
    def needs_data(self) -> bool:
        """Tell whether it reads data of the user's."""
        return DATA in self.commands

    @property
    def first(self) -> str:
        """The first command, for the screen."""
        whole = re.sub(r"\\\n\s*", "", self.commands)
        return next(line for line in whole.splitlines() if RUNS.match(line))


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a Markdown page that run promptfed or a script, whether indented or fenced as a console."""
    heading, count = "", 0
    fenced = re.compile(r"^```console\n(.*?)^```$|^(#+ [^\n]*)$|((?:^(?: {4}[^\n]*)\n?)+)", re.MULTILINE | re.DOTALL)
    for console, title, indented in fenced.findall(page):
        if title:
            heading, count = title.lstrip("# "), 0
            continue
        text = re.sub(r"^\$ ", "", console, flags=re.MULTILINE) if console else re.sub(r"(?m)^ {4}", "", indented)
        if RUNS.search(text) and Path(__file__).name not in text:
            count += 1
            yield Block(heading, count, text.rstrip())


def is_done(block: Block, folder: Path) -> bool:
    """Tell whether these very commands have ended well in ``folder``."""
    script = folder / "commands.sh"
    return (folder / "output.txt").exists() and script.exists() and script.read_text() == block.commands


def run(block: Block, folder: Path, data_root: str) -> int:
    """Run a block in ``folder`` and return its exit status; ``output.txt`` is there once it has ended well."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "output.txt").unlink(missing_ok=True)
    (folder / "commands.sh").write_text(block.commands)
    root = shlex.quote(str(ROOT))
    text = block.commands.replace("scripts/", f"{root}/scripts/").replace("docs/configs/", f"{root}/docs/configs/")
    part = folder / "output.part"
    with part.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env={**os.environ, DATA: data_root},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)  # promptfed saves what it has
            process.wait()
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # a server that a block began ends with it
    if status == 0:
        part.replace(folder / "output.txt")
    return status


def main(words: Sequence[str] | None = None) -> int:
    """Run the blocks that are asked for, and return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="folder [results]")
    parser.add_argument("--only", default="", metavar="A,B", help="blocks whose name has one of these words")
    parser.add_argument("--list", action="store_true", help="list the blocks and run none")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="the page [docs/results.md]")
    parser.add_argument("--data-root", default=os.environ.get(DATA, ""), metavar="DIR", help=f"your data [{DATA}]")
    options = parser.parse_args(words)
    names = [word.strip().lower() for word in options.only.split(",") if word.strip()]
    selection = [
        block
        for block in blocks(options.page.read_text(encoding="utf-8"))
        if not names or any(name in block.name for name in names)
    ]
    if not selection:
        parser.error(f"no block has '{options.only}' in its name: --list has the names")
    failures = 0
    for k, block in enumerate(selection, 1):
        about = f"[{k} of {len(selection)}] {block.name}"
        folder = options.out / block.name
        if options.list:
            print(f"{block.name}: {block.first}{' (needs data)' if block.needs_data else ''}")
        elif is_done(block, folder):
            print(f"{about}: is there")
        elif block.needs_data and not options.data_root:
            print(f"{about}: left out, it needs --data-root")
        else:
            print(f"{about}: {block.first}", flush=True)
            began = time.monotonic()
            status = run(block, folder, str(Path(options.data_root).resolve()) if options.data_root else "")
            took = time.monotonic() - began
            if status:
                failures += 1
                print(f"{about}: failed with code {status} after {took:.0f} s, see {folder / 'output.part'}")
            else:
                print(f"{about}: {took:.0f} s, {folder / 'output.txt'}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped: blocks that have ended are kept, and the same command goes on", file=sys.stderr)
        sys.exit(130)
