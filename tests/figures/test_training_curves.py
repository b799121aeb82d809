"""Training curves: what they hold, and runs that cannot be drawn."""

import json
from pathlib import Path

import pytest
from conftest import PNG
from script_runs import message

from figures import training_curves


def write_run(folder: Path, method: str = "asa", seed: int = 1, metrics: str | None = None, **own) -> Path:
    """A run of four logged steps and two epochs, of an encoder with two layers."""
    folder.mkdir(parents=True)
    windows = [{"step": step, "train_loss": 1 / step} for step in (10, 20, 30, 40)]
    if method == "asa":
        for row, window in enumerate(windows):
            window.update(divergence=row / 10, keep_rate=[0.5 + row / 10, 1.0])
    epochs = [
        {"global_step": step, "eval_score": score, "metrics": {"accuracy": score}}
        for step, score in ((20, 80.0), (40, 90.0))
    ]
    settings = {"task_name": "SST-2", "method": method, "seed": seed, **own}
    (folder / "results.json").write_text(json.dumps({"args": settings, "epochs": epochs}))
    lines = "".join(json.dumps(window) + "\n" for window in windows)
    (folder / "metrics.jsonl").write_text(lines if metrics is None else metrics)
    return folder


def test_long_labels_stay_within_the_picture(tmp_path, unsaved, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [write_run(Path("a_long_name_of_a_run_" * 2 + name)) for name in ("one", "two")]
    training_curves.main([*map(str, folders), "--output", "curves.png"])
    (figure,) = unsaved
    figure.draw_without_rendering()
    for text in (*figure.legends, *(axis.title for axis in figure.axes)):
        box = text.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
    counts = [training_curves.legend_columns(["SST-2, asa, seed 1"] * count) for count in range(1, 6)]
    assert counts == [1, 2, 3, 2, 3]


def test_curves_of_several_runs(tmp_path, figures):
    runs = [write_run(tmp_path / "1"), write_run(tmp_path / "2", "naive"), write_run(tmp_path / "3", seed=2)]
    training_curves.main([*map(str, runs), "--output", str(tmp_path / "curves" / "all.png")])
    assert (tmp_path / "curves" / "all.png").read_bytes().startswith(PNG)
    (figure,) = figures
    names = ["SST-2, asa, seed 1", "SST-2, naive, seed 1", "SST-2, asa, seed 2"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    loss, divergence, score, first, second, _ = figure.axes[:6]
    curves = [[list(map(tuple, line.get_xydata())) for line in axis.lines] for axis in (loss, divergence, score)]
    assert curves[0] == [[(step, 1 / step) for step in (10, 20, 30, 40)]] * 3
    with_divergence = [(10, 0.0), (20, 0.1), (30, 0.2), (40, 0.3)]
    assert curves[1] == [with_divergence, [], with_divergence]
    assert curves[2] == [[(20, 80.0), (40, 90.0)]] * 3
    for axis, name in ((first, names[0]), (second, names[2])):
        assert axis.get_title() == f"keep rate: {name}"
        assert [list(line.get_ydata()) for line in axis.lines] == [[0.5, 0.6, 0.7, 0.8], [1.0] * 4]
    assert score.get_title() == "score after each epoch: accuracy"
    colours = [line.get_color() for line in loss.lines]
    assert len(set(colours)) == 3


def test_a_torn_last_line_and_a_step_logged_twice(tmp_path, caplog):
    lines = ['{"step": 10, "train_loss": 3.0}', '{"step": 20, "train_loss": 2.0}', '{"step": 10, "train_loss": 1.0}']
    run = training_curves.read_run(write_run(tmp_path / "run", metrics="\n".join([*lines, '{"step": 30, "tra'])))
    assert run.curve("train_loss", run.windows) == ([10, 20], [1.0, 2.0])
    assert caplog.messages == [f"{tmp_path}/run/metrics.jsonl, line 4: cut short, left out"]
    assert run.curve("keep_rate", run.windows) == ([], [])


@pytest.mark.parametrize(("last", "drawn"), [(24, [10, 20]), (25, [10, 20, 25])])
def test_a_last_record_of_few_steps_is_left_out(last, drawn, tmp_path):
    lines = [f'{{"step": {step}, "learning_rate": 0.1, "train_loss": 1.0}}' for step in (10, 20, last)]
    lines.append('{"step": 19, "liveness": 2.0}')
    run = training_curves.read_run(write_run(tmp_path / "run", metrics="\n".join(lines)))
    assert run.curve("train_loss", run.windows)[0] == drawn


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / name) for name in ("a", "b")]
    assert [run.label for run in training_curves.read_runs(folders)] == [
        f"SST-2, asa, seed 1 ({tmp_path}/{name})" for name in ("a", "b")
    ]


def test_runs_of_one_method_are_told_apart_by_its_settings(tmp_path):
    first = write_run(tmp_path / "a", tau=0.5, protocol="corrected")
    second = write_run(tmp_path / "b", tau=0.1, protocol="corrected", asa_layers=[2, 5])
    labels = [run.label for run in training_curves.read_runs([first, second])]
    assert labels == ["SST-2, asa, seed 1, tau 0.5", "SST-2, asa, seed 1, tau 0.1, asa_layers 2 5"]


def test_keep_rates_have_the_numbers_of_their_layers(tmp_path, unsaved):
    folder = write_run(tmp_path / "run", asa_layers=[2, 5])
    training_curves.main([str(folder), "--output", str(tmp_path / "curves.png")])
    panel, bar = unsaved[0].axes[3:]
    assert [line.get_label() for line in panel.lines] == ["layer 2", "layer 5"]
    assert bar.get_ylim() == (-0.5, 5.5)


def test_a_run_without_evaluation_or_adversaries(tmp_path, unsaved):
    folder = write_run(tmp_path / "run", "naive")
    results = json.loads((folder / "results.json").read_text())
    results["epochs"] = [{"global_step": 40, "eval_score": None, "metrics": {}}]
    (folder / "results.json").write_text(json.dumps(results))
    training_curves.main([str(folder), "--output", str(tmp_path / "curves.png")])
    loss, divergence, score, empty = unsaved[0].axes
    assert [text.get_text() for text in divergence.texts] == ["none of these runs has one"]
    assert (len(loss.lines), score.lines[0].get_xydata().size, empty.axison) == (1, 0, False)
    assert score.get_title() == "score after each epoch"


def test_what_is_no_run(tmp_path):
    def said(folder) -> str:
        return message(training_curves.main, [str(folder), "--output", str(tmp_path / "curves.png")])

    assert said(tmp_path / "absent").endswith(
        "results.json: no such file; give the output folder of a run that has ended an epoch"
    )
    torn = write_run(tmp_path / "torn", metrics='{"step": 10}\n{"st\n{"step": 30}\n')
    assert said(torn).endswith("metrics.jsonl, line 2: not a record of a training step")
    for content in ("[]", "{", '{"args": {}, "epochs": []}', '{"args": {"task_name": "x"}, "epochs": [1]}'):
        (torn / "results.json").write_text(content)
        assert said(torn).endswith("results.json: not the results file of a run")
    assert not (tmp_path / "curves.png").exists()
