"""The figure of why the masks open: its panels hold what the benchmark measured."""

import json
from pathlib import Path

import pytest
from script_runs import message

from figures import adversary as adversary_figure


def measured(folder: Path, name: str, **changes) -> Path:
    """A file as `benchmarks.adversary` writes it: ASA, ASA at another learning rate, and the row budget."""

    def run(tau, budget, rate: float) -> dict:
        layers = [{"ratio": 40.0 * tau if tau else 0.0, "penalty_cosine": 0.9 if tau else None}] * 2
        layers = [layer | {"divergence_cosine": 0.1 * number} for number, layer in enumerate(layers)]
        states = [{"step": step, "liveness": 2.0 if step else None, "layers": layers} for step in (0, 2)]
        setting = {"tau": tau, "budget": budget, "learning_rate": rate, "seed": 42}
        return {"setting": setting, "states": states, "keep_rate": [[0.5, 0.7], [0.6, 1.0]], "opened": [None, 1]}

    runs = [run(0.5, None, 2e-5), run(0.5, None, 4e-5), run(None, 0.1, 2e-5)]
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"args": {"load_model_path": name}, "runs": runs} | changes))
    return path


def test_the_panels_hold_what_was_measured(tmp_path, unsaved):
    paths = [str(measured(tmp_path, name)) for name in ("small", "base")]
    adversary_figure.main([*paths, "--output", str(tmp_path / "out" / "adversary.png")])
    assert (tmp_path / "out" / "adversary.png").exists()
    [figure] = unsaved
    curves = [[line.get_ydata() for line in axis.lines] for axis in figure.axes]
    assert [list(curve) for curve in curves[0]] == [[20.0, 20.0], [], [20.0, 20.0], [], [1, 1]]
    assert [list(curve) for curve in curves[1][:4]] == [[0.9, 0.9], [0.0, 0.1], [], [0.0, 0.1]]
    assert [list(curve) for curve in curves[2]] == [pytest.approx([0.6, 0.8])] * 4
    assert [list(curve) for curve in curves[3]] == [[2.0]] * 4 + [[1, 1]]
    lines = figure.axes[3].lines[:4]
    labels = [line.get_label() for line in lines]
    assert labels == ["small, tau 0.5", "small, row budget 0.1", "base, tau 0.5", "base, row budget 0.1"]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 4
    assert [list(line.get_xdata()) for line in lines] == [[2]] * 4  # at step 0 there is none
    assert [list(line.get_xdata()) for line in figure.axes[2].lines] == [[0, 1]] * 4


def test_seeds_of_a_file_can_be_told_apart(tmp_path, unsaved):
    path = measured(tmp_path, "small")
    found = json.loads(path.read_text())
    again = [run | {"setting": run["setting"] | {"seed": 13}} for run in found["runs"]]
    path.write_text(json.dumps(found | {"runs": found["runs"] + again}))
    adversary_figure.main([str(path), "--output", str(tmp_path / "adversary.png")])
    lines = unsaved[0].axes[3].lines[:4]
    assert [line.get_label() for line in lines] == [
        *("small, tau 0.5, seed 42", "small, row budget 0.1, seed 42"),
        *("small, tau 0.5, seed 13", "small, row budget 0.1, seed 13"),
    ]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 4


@pytest.mark.parametrize("content", ["{", "{}", '{"args": {"load_model_path": "a"}, "runs": []}'])
def test_files_that_are_not_the_benchmark_s(content, tmp_path, figures):
    path = tmp_path / "other.json"
    path.write_text(content)
    said = message(adversary_figure.main, [str(path), "--output", str(tmp_path / "x.png")])
    assert said == f"{path}: not a file that python -m benchmarks.adversary has written"
    assert figures == []
