"""Write into a suite what each client and each test holds at its seeds, as SHA-256.

    python scripts/make_bench_partitions.py              the suite `mini`, whose data are bundled
    python scripts/make_bench_partitions.py --check      say whether the suite has them; exit code 1 if not

Nothing is trained: an experiment of each entry is built at each seed.
"""

from __future__ import annotations

import argparse
import sys

import yaml

from promptfed.bench.entry_result import partition_digest
from promptfed.bench.suite import FOLDER, load_suite
from promptfed.experiment import Experiment
from promptfed.resolve import resolve
from promptfed.runs.partition_file import partition_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="mini", help="its name [mini]")
    parser.add_argument("--check", action="store_true", help="change nothing")
    asked = parser.parse_args()
    suite = load_suite(asked.suite)
    path = FOLDER / f"{asked.suite}.yaml"
    lines = path.read_text().splitlines()
    differ = []
    for name, entry in suite.entries.items():
        plan = entry.plan(suite.seeds, None, None)
        digests = {
            seed: partition_digest(partition_record(Experiment.build(resolve(plan.config("zero_shot", seed))).task))
            for seed in plan.seeds
        }
        print(name, *(f"{seed}: {digest[:12]}" for seed, digest in digests.items()), flush=True)
        if digests != dict(entry.partitions):
            differ.append(name)
        lines = with_partitions(lines, name, digests)
    if asked.check:
        sys.exit(f"other partitions than the suite's: {', '.join(differ)}" if differ else 0)
    path.write_text("\n".join(lines) + "\n")
    assert yaml.safe_load(path.read_text())["entries"], path


def with_partitions(lines: list[str], entry: str, digests: dict[int, str]) -> list[str]:
    """Return the lines of a suite with the partitions of an entry, behind its own lines."""
    start = lines.index(f"  {entry}:")
    ends = (i for i in range(start + 1, len(lines)) if not lines[i].startswith("    "))
    end = next(ends, len(lines))
    block = lines[start:end]
    if "    partitions:" in block:
        at = block.index("    partitions:")
        after = next((i for i in range(at + 1, len(block)) if not block[i].startswith("      ")), len(block))
        block = block[:at] + block[after:]
    block += ["    partitions:", *(f"      {seed}: {digest}" for seed, digest in digests.items())]
    return lines[:start] + block + lines[end:]


if __name__ == "__main__":
    main()
