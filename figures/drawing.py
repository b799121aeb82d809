"""What the figures share: one look, which is legible at the width of a README on light and dark pages, and files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utils import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 9.0  # inches: at README width, about 900 pixels, a point of type is a little more than a pixel
DPI = 150
# Okabe and Ito's palette for categories, without its yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")  # for whom the colours are greys
QUANTITIES = "viridis"  # from little to much: made for colour-blind eyes, and its lightness only rises
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
    "text.parse_math": False,  # a dollar sign in a sentence is no formula
}


@contextlib.contextmanager
def picture(path: str | Path, width: float, height: float, layout: str = "constrained") -> Iterator[Figure]:
    """Yield an empty figure of that size in inches; when the block ends well, it is written as a PNG.

    Its background is white and opaque, so that dark pages show it as it is.
    """
    import matplotlib  # takes half a second
    from matplotlib.figure import Figure

    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
        yield figure
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI)
