"""Why the masks of ASA open, in four panels, from the measurements of `python -m benchmarks.adversary`.

python -m figures.adversary benchmarks/results/adversary_minilm.json

The panels show penalty against divergence in each layer before the first step; whether their gradients have the same
direction in different batches; the keep rate during the run; and the liveness, which is 1 if the masks do no more than
random ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from figures.drawing import COLOURS, LINE_STYLES, MARKS, WIDTH, picture
from utils import InputError, Parser, counted, log, run_script

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 6.6  # inches


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the runs of the given files.

    Raises:
        InputError: a file is not from the benchmark. Nothing has been written by then.
    """
    parser = Parser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("files", nargs="+", metavar="FILE", help="JSON files of the benchmark")
    parser.add_argument("--output", default="figures/adversary.png", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    runs = styled([read_runs(Path(path)) for path in args.files])
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    draw(args.output, runs)
    log.info(f"{counted(len(runs), 'run')}: {args.output}")


def read_runs(path: Path) -> list[dict]:
    """The runs in a file that have the learning rate of the first one; each with a label.

    Raises:
        InputError: the file is not from the benchmark.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        encoder, runs = Path(found["args"]["load_model_path"]).name, found["runs"]
        rate = runs[0]["setting"]["learning_rate"]
        runs = [run for run in runs if run["setting"]["learning_rate"] == rate]
        several = len({run["setting"]["seed"] for run in runs}) > 1
        seeds = [f", seed {run['setting']['seed']}" * several for run in runs]
        labels = [f"{encoder}, {_rule(run['setting'])}{seed}" for run, seed in zip(runs, seeds, strict=True)]
        [(run["keep_rate"][0], run["states"][0]["layers"][0]["ratio"]) for run in runs]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        raise InputError(f"{path}: not a file that python -m benchmarks.adversary has written") from None
    return [run | {"label": label} for run, label in zip(runs, labels, strict=True)]


def styled(files: Sequence[Sequence[dict]]) -> list[dict]:
    """The runs of all files, each with the colour of its rule, and the line style and marker of its file and seed."""
    rules = list(dict.fromkeys(_rule(run["setting"]) for runs in files for run in runs))
    sources = [(number, run["setting"]["seed"]) for number, runs in enumerate(files) for run in runs]
    sources = list(dict.fromkeys(sources))
    return [
        run
        | {
            "style": {
                "color": COLOURS[rules.index(_rule(run["setting"])) % len(COLOURS)],
                "linestyle": LINE_STYLES[sources.index((number, run["setting"]["seed"])) % len(LINE_STYLES)],
                "marker": MARKS[sources.index((number, run["setting"]["seed"])) % len(MARKS)],
                "markersize": 4,
            },
        }
        for number, runs in enumerate(files)
        for run in runs
    ]


def _rule(setting: dict) -> str:
    return f"row budget {setting['budget']:g}" if setting["budget"] is not None else f"tau {setting['tau']:g}"


def draw(path: str | Path, runs: Sequence[dict]) -> None:
    """Write the picture."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    with picture(path, WIDTH, HEIGHT) as figure:
        ratios, cosines, rates, alive = figure.subplots(2, 2).flatten()
        for run in runs:
            draw_layers(ratios, run, "ratio")
            draw_layers(cosines, run, "penalty_cosine")
            draw_layers(cosines, run, "divergence_cosine", fillstyle="none", linewidth=0.8)
            draw_keep_rate(rates, run)
            draw_liveness(alive, run)
        ratios.set(title="gradient of penalty / of divergence, step 0", yscale="log", xlabel="layer")
        ratios.axhline(1, color="black", linewidth=0.8)
        ratios.yaxis.set_major_formatter("{x:g}")
        ratios.yaxis.set_minor_formatter(NullFormatter())
        cosines.set(title="cosine between batches, step 0 (hollow: divergence)", xlabel="layer", ylim=(-0.3, 1.05))
        rates.set(title="keep rate, the mean of the layers", xlabel="optimizer step", ylim=(0, 1.02), xlim=0)
        alive.set(title="liveness: learned / random masks", xlabel="optimizer step", xlim=0, ylim=0)
        alive.axhline(1, color="black", linewidth=0.8)
        for axis in (ratios, cosines):
            axis.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        handles, labels = alive.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(3, len(labels)))


def draw_layers(axis: Axes, run: dict, name: str, **changes) -> None:
    """Plot a figure of each layer at the first state; layers without it are skipped, such as the budget's penalty."""
    layers = enumerate(run["states"][0]["layers"])
    values = [(layer, found[name]) for layer, found in layers if found[name] is not None and found["ratio"] is not None]
    values = [] if name == "ratio" and not any(value for _, value in values) else values
    axis.plot([layer for layer, _ in values], [value for _, value in values], **run["style"] | changes)


def draw_keep_rate(axis: Axes, run: dict) -> None:
    curve = [sum(rates) / len(rates) for rates in run["keep_rate"]]
    axis.plot(range(len(curve)), curve, **run["style"] | {"marker": None})


def draw_liveness(axis: Axes, run: dict) -> None:
    known = [(state["step"], state["liveness"]) for state in run["states"] if state["liveness"]]
    axis.plot([step for step, _ in known], [ratio for _, ratio in known], **run["style"], label=run["label"])


if __name__ == "__main__":
    run_script(main)
