"""Pictures as files of their own. Matplotlib without pyplot: nothing global changes, no window opens.

The charts inside pages are drawn by ``promptfed.report.charts``.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptfed.errors import ConfigError
from promptfed.files.atomic import write_bytes

WIDTH = 4.4  # inches, at 72 points


def save(figure: Figure, target: Path | IO[bytes], **options: Any) -> None:
    """Write ``figure`` with letters of any script, whole or not at all.

    Raises:
        ConfigError: The path's ending is not one of a picture.
        DiskError: The disk refuses.
    """
    if isinstance(target, Path):
        kinds = figure.canvas.get_supported_filetypes()
        kind = target.suffix.lower().lstrip(".")
        if kind not in kinds:
            raise ConfigError(f"'{target}' is no name of a picture: end it in one of .{', .'.join(sorted(kinds))}")
        buffer = io.BytesIO()
        save(figure, buffer, **{"format": kind, **options})
        write_bytes(target, buffer.getvalue())
        return
    with any_script():
        figure.savefig(target, **options)


@contextmanager
def any_script() -> Iterator[None]:
    """Draw letters that the font lacks as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing from")
        yield


def canvas(height: float) -> tuple[Figure, Axes]:
    """Return a figure of the reports' width, ``height`` inches high."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def legend(axes: Axes, columns: int = 3) -> None:
    """Add a legend above the axes, where it hides no data."""
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False, fontsize=9, handlelength=2.2
    )
