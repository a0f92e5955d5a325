"""`promptfed`, and `python -m promptfed`: the command line, with Ctrl-C heeded while it is still being imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit. Ctrl-C exits with 130 from the first import on."""
    try:
        from promptfed.commands.completion import answer, is_asked

        if is_asked():
            answer()
        from promptfed.cli import main as run

        run()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
