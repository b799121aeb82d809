"""Shared by all figures: file output, and a style that is legible at README width on light and dark pages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utils import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 9.0  # inches: at README width, about 900 pixels, a typographic point is a little more than a pixel
DPI = 150
# Okabe and Ito's palette for categories, without its yellow, which is invisible on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "osD^vPX"
LINE_STYLES = ("-", "--", ":", "-.")  # for readers who cannot tell the colours apart
QUANTITIES = "viridis"  # from low to high: safe for colour-blind readers, and its lightness only increases
LOOK = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "hatch.linewidth": 0.8,
    "text.parse_math": False,  # a dollar sign in a sentence does not begin a formula
}


@contextlib.contextmanager
def picture(path: str | Path, width: float, height: float, layout: str = "constrained") -> Iterator[Figure]:
    """Yield an empty figure of this size in inches; if the block succeeds, it is written as a PNG.

    Its background is white and opaque, so that it looks the same on dark pages.
    """
    import matplotlib  # takes half a second
    from matplotlib.figure import Figure

    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
        yield figure
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI)
