"""Plot loss, divergence, score and keep rates of several runs against their optimizer steps.

python -m figures.training_curves results/minilm/SST-2/naive/seed42 results/minilm/SST-2/asa/seed42

Only results.json and metrics.jsonl of a run are read; unfinished runs can be drawn as well.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.records import read_metrics
from figures.drawing import COLOURS, LINE_STYLES, QUANTITIES, WIDTH, picture
from models.methods import METHODS
from utils import InputError, Parser, counted, log, run_script, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 2  # panels per row
TOGETHER = 3  # panels with a curve of each run
LEGEND_CHARACTERS = 130  # per line across the picture
SAMPLE = 6  # of these, for the line sample before each label
TITLE_CHARACTERS = 56  # per line above a panel


@dataclass
class Run:
    """The records of a run.

    label: task, method and seed.
    own: the arguments of its method.
    windows: the records of metrics.jsonl, ordered by step.
    epochs: the epoch records of results.json.
    metric: the metric of an epoch's score; None without an evaluation.
    """

    label: str
    folder: Path
    own: dict
    windows: list[dict]
    epochs: list[dict]
    metric: str | None

    def curve(self, name: str, records: list[dict]) -> tuple[list[int], list]:
        """(steps, values) of the records that have this figure."""
        step = "step" if records is self.windows else "global_step"
        found = [(record[step], record[name]) for record in records if record.get(name) is not None]
        return [step for step, _ in found], [figure for _, figure in found]


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the given runs.

    Raises:
        InputError: a folder is not that of a run. Nothing has been written by then.
    """
    parser = Parser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folder of a run")
    parser.add_argument("--output", default="figures/training_curves.png", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    runs = read_runs(args.runs)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    draw(args.output, runs)
    log.info(f"{counted(len(runs), 'run')}: {args.output}")


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs in the given order, each with a unique label, which includes differing settings if necessary.

    Raises:
        InputError: a folder is not that of a run.
    """
    runs = [read_run(Path(folder)) for folder in folders]
    for alike in _of_same_label(runs):
        for run in alike:
            told = [name for name in run.own if any(other.own.get(name) != run.own[name] for other in alike)]
            run.label = ", ".join([run.label, *(f"{name} {short(run.own[name])}" for name in told)])
    for alike in _of_same_label(runs):
        for run in alike:
            run.label += f" ({run.folder})"
    return runs


def _of_same_label(runs: list[Run]) -> list[list[Run]]:
    labels = Counter(run.label for run in runs)
    return [[run for run in runs if run.label == label] for label, count in labels.items() if count > 1]


def read_run(folder: Path) -> Run:
    """The records of a run; the last line of metrics.jsonl may be incomplete, as a stopped run leaves it.

    Raises:
        InputError: results.json or metrics.jsonl is missing, or was not written by a run.
    """
    from training.folder import RunFolder  # takes seconds

    files = RunFolder(folder)
    for path in (files.results, files.metrics):
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the output folder of a run that has ended an epoch")
    try:
        results = json.loads(files.results.read_text(encoding="utf-8"))
        args, epochs = results["args"], results["epochs"]
        label = f"{args['task_name']}, {args['method']}, seed {args['seed']}"
        own = {name: args[name] for name in METHODS[args["method"]].flags if args.get(name) is not None}
        metric = next((name for epoch in epochs[:1] for name in epoch["metrics"]), None)
        [epoch["global_step"] for epoch in epochs]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{files.results}: not the results file of a run") from None
    return Run(label, folder, own, read_windows(files.metrics), epochs, metric)


def read_windows(path: Path) -> list[dict]:
    """The records of metrics.jsonl by step; for a step that was logged again after a resume, the last one.

    A last record over less than half as many steps as the one before is left out: it is noisier than the others.

    Raises:
        InputError: a line other than the last is not a record.
    """
    windows = {record["step"]: record for record in read_metrics(path)}
    steps = sorted(windows)
    whole = [step for step in steps if "learning_rate" in windows[step]]  # not records of liveness alone
    if len(whole) > 2 and 2 * (whole[-1] - whole[-2]) < whole[-2] - whole[-3]:
        steps.remove(whole[-1])
    return [windows[step] for step in steps]


def draw(path: str | Path, runs: list[Run]) -> None:
    """Write the picture: panels for loss, divergence and score, and a panel for each run with keep rates."""
    from matplotlib.ticker import MaxNLocator

    masking = [run for run in runs if run.curve("keep_rate", run.windows)[0]]
    rows = math.ceil((TOGETHER + len(masking)) / COLUMNS)
    with picture(path, WIDTH, 2.8 * rows + 0.4) as figure:
        axes = figure.subplots(rows, COLUMNS).flatten()
        draw_runs(axes[:TOGETHER], runs)
        handles, labels = axes[0].get_legend_handles_labels()
        labels = [textwrap.fill(label, LEGEND_CHARACTERS - SAMPLE) for label in labels]
        figure.legend(handles, labels, loc="outside upper center", ncols=legend_columns(labels))
        for axis, run in zip(axes[TOGETHER:], masking, strict=False):
            draw_keep_rates(axis, run)
        for axis in axes[TOGETHER + len(masking) :]:
            axis.set_axis_off()
        for axis in axes:
            axis.set_xlim(left=0)
            axis.set_xlabel("optimizer step")
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def legend_columns(labels: list[str]) -> int:
    """How many labels fit side by side."""
    fitting = LEGEND_CHARACTERS // (max(map(len, labels)) + SAMPLE)
    columns = max(1, min(len(labels), 3, fitting))
    return 2 if len(labels) == 4 and columns == 3 else columns


def draw_runs(axes: Sequence[Axes], runs: list[Run]) -> None:
    """Draw loss, divergence and score, with a colour and a line style for each run."""
    for number, run in enumerate(runs):
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": LINE_STYLES[number % len(LINE_STYLES)],
            "label": run.label,
        }
        axes[0].plot(*run.curve("train_loss", run.windows), **style)
        axes[1].plot(*run.curve("divergence", run.windows), **style)
        axes[2].plot(*run.curve("eval_score", run.epochs), **style, marker="o", markersize=4)
    axes[0].set_title("training loss (task + divergence)")
    axes[1].set_title("divergence, as in the loss")
    if not any(axis_line.get_xdata().size for axis_line in axes[1].lines):
        axes[1].text(0.5, 0.5, "none of these runs has one", ha="center", transform=axes[1].transAxes)
    metrics = sorted({run.metric.replace("_", " ") for run in runs if run.metric})
    axes[2].set_title(
        f"score after each epoch: {', '.join(metrics)}" if len(metrics) == 1 else "score after each epoch"
    )
    axes[2].set_ylabel("per cent")


def draw_keep_rates(axis: Axes, run: Run) -> None:
    """Draw a line for each layer, from dark to light, with a colour bar that numbers them."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.ticker import MaxNLocator

    steps, rates = run.curve("keep_rate", run.windows)
    layers = run.own.get("asa_layers", list(range(len(rates[0]))))
    last = max(layers)
    # The lightest colours of the map are left out: they are too close to white.
    shades = matplotlib.colormaps[QUANTITIES]([0.9 * layer / max(last, 1) for layer in range(last + 1)])
    for layer, curve in zip(layers, zip(*rates, strict=True), strict=True):
        axis.plot(steps, curve, color=shades[layer], label=f"layer {layer}")
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("share of the pairs kept")
    axis.set_title(textwrap.fill(f"keep rate: {run.label}", TITLE_CHARACTERS))
    numbers = ScalarMappable(BoundaryNorm([layer - 0.5 for layer in range(last + 2)], last + 1), ListedColormap(shades))
    ticks = MaxNLocator(12, integer=True)
    axis.figure.colorbar(numbers, ax=axis, label="layer", ticks=ticks).ax.tick_params(length=0)


if __name__ == "__main__":
    run_script(main)
