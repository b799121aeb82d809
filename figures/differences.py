"""The difference of each method from plain fine-tuning, with its interval.

python -m figures.differences results/minilm

The rows are those of `reproduce.py report`, after the last epoch, without the ablations: a marker for the mean over
seeds, a line for its 95 % interval, and a tick for each seed. A row in which no seed is better than a constant
prediction is not drawn, but named below the picture.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.records import Result, read_results
from figures.drawing import COLOURS, MARKS, WIDTH, picture
from models.methods import METHODS
from training.flags import positive, positive_int
from utils import InputError, Parser, counted, log, run_script

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.groups import Group

TABLES = ("main", "comparison", "robustness")
ROW = 0.21  # inches
FRAME = 0.55  # inches, below the rows
LINE = 0.16  # inches, per line of text there
CHARACTERS = 100  # per line of text
BESIDE = 1.02  # position of the numbers, in widths of the axis
AXIS = "points from plain fine-tuning after the last epoch: mean, 95 % interval, and each seed"


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the runs below the given folders.

    Raises:
        InputError: a folder has no method to compare with plain fine-tuning, or there is nothing to draw. Nothing has
            been written by then.
    """
    parser = Parser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="output folder of a grid, or any folder with runs in it"
    )
    parser.add_argument(
        "--points", type=positive, default=10.0, help="extent of the axis on each side of 0 (default: %(default)s)"
    )
    parser.add_argument(
        "--pairs",
        type=positive_int,
        default=2,
        help="leave out rows with fewer seeds in common with plain fine-tuning (default: %(default)s)",
    )
    parser.add_argument("--output", default="figures/differences.png", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    found = [pair for folder in args.folders for pair in read_pairs(Path(folder), args.pairs)]
    several = several_encoders(found)
    constant = [
        _name(group) + f" ({_encoder(group)})" * several
        for group, _ in found
        if all(map(is_constant, group.results.values()))
    ]
    shown = [(group, plain) for group, plain in found if not all(map(is_constant, group.results.values()))]
    left_out = (
        f"not drawn, as every seed is no better than one class throughout: {'; '.join(constant)}" if constant else ""
    )
    if not shown:
        raise InputError(f"{', '.join(args.folders)}: nothing to draw ({left_out})")
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    draw(args.output, shown, args.points, left_out)
    log.info(f"{counted(len(shown), 'row')}: {args.output}{left_out and f'; {left_out}'}")


def read_pairs(folder: Path, least: int = 2) -> list[tuple[Group, Group]]:
    """(runs of a method, runs of plain fine-tuning), for each row in which both have `least` seeds in common.

    Raises:
        InputError: there is no such row.
    """
    from experiments.groups import grouped  # takes a second
    from experiments.pretraining import apart
    from experiments.tables import sections

    groups = grouped(apart(read_results(folder))[1])
    naive = {group.base: group for group in groups if group.method == "naive"}
    tables = sections(groups)
    shown = {id(group): group for table in TABLES for group in tables.get(table, ()) if group.base in naive}
    pairs = [(group, naive[group.base]) for group in shown.values() if group.method != "naive"]
    found = [(group, plain) for group, plain in pairs if len(group.results.keys() & plain.results.keys()) >= least]
    if not found:
        raise InputError(f"{folder}: no method has {counted(least, 'seed')} in common with plain fine-tuning")
    return found


def several_encoders(pairs: Sequence[tuple[Group, Group]]) -> bool:
    """Whether the encoders or precisions differ, so that they have to be named."""
    return len({_encoder(group) for group, _ in pairs}) > 1


def is_constant(result: Result) -> bool:
    """Whether a run ends no better than a constant prediction, by its scores; accuracy alone cannot tell.

    A constant prediction has a correlation of 0, and an F1 of 0 or, for the positive class, of 2 a / (1 + a), where a
    is its accuracy. A correlation below 0 is no better.
    """
    f1, accuracy = (result.metrics.get(name, math.nan) / 100 for name in ("f1", "accuracy"))
    return result.last <= 0 or f1 == 0 or (accuracy < 1 and math.isclose(f1, 2 * accuracy / (1 + accuracy)))


def draw(path: str | Path, pairs: Sequence[tuple[Group, Group]], points: float, left_out: str = "") -> None:
    """Write the picture: a block for each evaluated set, with a line for each method.

    Args:
        left_out: text below the picture on what is not drawn.
    """
    from matplotlib.transforms import blended_transform_factory  # takes half a second

    several = several_encoders(pairs)
    blocks: dict[tuple, list] = {}
    for group, plain in pairs:
        heading = _heading(group) + f"; {_encoder(group)}" * several
        blocks.setdefault((group.base, heading), []).append((group, plain))
    lines = sum(len(block) + 1 for block in blocks.values())
    said = textwrap.wrap(left_out, CHARACTERS)
    with picture(path, WIDTH, ROW * lines + FRAME + LINE * len(said)) as figure:
        axis = figure.subplots()
        axis.set(xlim=(-points, points), ylim=(lines - 0.4, -0.6), xlabel="\n".join((AXIS, *said)))
        axis.axvline(0, color="black", linewidth=1)
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0, pad=8)
        axis.spines["left"].set_visible(False)
        labels = []
        for (_, heading), block in blocks.items():
            axis.axhline(len(labels) - 0.5, color="#bbbbbb", linewidth=0.8)
            box = {"facecolor": "white", "linewidth": 0, "pad": 1}  # covers the grid lines
            # From the left edge of the picture: a long heading would not fit above the axis alone.
            from_edge = blended_transform_factory(figure.transFigure, axis.transData)
            text = axis.text(0.005, len(labels), heading, va="center", weight="bold", bbox=box, transform=from_edge)
            text.set_in_layout(False)  # or the layout would move the axis away from it
            labels.append("")
            for group, plain in block:
                draw_row(axis, len(labels), group, plain, points)
                labels.append(_method(group))
        axis.set_yticks(range(lines), labels)


def _method(group: Group) -> str:
    from experiments.groups import joined, listed

    own = {name.removeprefix(f"{group.method}_"): value for name, value in group.changed_own.items()}
    named = {group.method: own.pop(group.method)} if group.method in own else {}  # its budget, for asa_budget
    return joined(listed(named) or group.method, listed(own))


def _name(group: Group) -> str:
    return f"{_method(group)} on {group.first.scored_on if group.first.best is None else group.task}"


def _heading(group: Group) -> str:
    from experiments.groups import listed

    on = group.scored_set
    if not on.startswith(f"{group.task} "):
        on = f"{group.task} models on {on}"
    settings = listed(group.changed_training)
    return f"{on}: {group.first.metric.replace('_', ' ')}" + (f" ({settings})" if settings else "")


def _encoder(group: Group) -> str:
    return f"{group.encoder}, {group.first.precision}"


def draw_row(axis: Axes, place: int, group: Group, plain: Group, points: float) -> None:
    """Draw the mean with its interval, each seed, and the numbers beside them; an arrow for values beyond the axis."""
    from experiments.paired import compare, interval_text

    scores, reference = group.scores("last"), plain.scores("last")
    found = compare(scores, reference)
    number = list(METHODS).index(group.method) - 1  # naive has none
    colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
    mean, low, high = found["difference"], found["low"], found["high"]
    seeds = [scores[seed] - reference[seed] for seed in scores.keys() & reference.keys()]
    axis.plot(seeds, [place] * len(seeds), "|", color=colour, markersize=9)
    text = f"{mean:+z.2f}"
    if low is not None:
        axis.plot([low, high], [place, place], color=colour)
        text += f" {interval_text(low, high)}"
    if abs(mean) <= points:
        axis.plot(mean, place, mark, color=colour, markersize=6)
    drawn = [mean, *seeds, *(() if low is None else (low, high))]
    for side, arrow in ((-points, "<"), (points, ">")):
        if any(value / side > 1 for value in drawn):
            axis.plot(side, place, arrow, color=colour, markersize=6, clip_on=False)
    axis.text(BESIDE, place, f"{text}, n {found['pairs']}", transform=axis.get_yaxis_transform(), va="center_baseline")


if __name__ == "__main__":
    run_script(main)
