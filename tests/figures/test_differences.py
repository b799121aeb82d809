"""The figure of the differences from plain fine-tuning: its rows, and what is left out."""

import json

import pytest
from conftest import PNG
from recorded_runs import write_run
from script_runs import message

from figures import differences


def test_differences_to_plain_fine_tuning(tmp_path, figures):
    for seed, score in ((1, 90.0), (2, 91.0)):
        write_run(tmp_path / "grid", "naive", seed, [score])
        write_run(tmp_path / "grid", "asa", seed, [99.0, score + seed])
        write_run(tmp_path / "grid", "rdrop", seed, [score - 19 - seed], rdrop_alpha=2.0)
        write_run(tmp_path / "grid", "asa", seed, [score], tau=0.1, name=f"ablation{seed}")
        for method, of_cola in (("naive", 50.0), ("smart", 52.0)):
            write_run(tmp_path / "other", method, seed, [of_cola], task_name="CoLA", load_model_path="other")
    write_run(tmp_path / "grid", "r3f", 1, [95.0])  # one seed is no row
    folders = [str(tmp_path / name) for name in ("grid", "other")]
    differences.main([*folders, "--points", "7", "--output", str(tmp_path / "new" / "all.png")])
    assert (tmp_path / "new" / "all.png").read_bytes().startswith(PNG)
    axis = figures[0].axes[0]
    labels = ["", "asa", "rdrop, alpha 2", "", "smart"]
    assert [label.get_text() for label in axis.get_yticklabels()] == labels
    assert {(text.get_position()[1], text.get_text()) for text in axis.texts} == {
        (0, "SST-2 dev: accuracy; bert-base-uncased, bf16"),
        (1, "+1.50 [-4.85, +7.85], n 2"),  # 12.706, of one degree of freedom, times a standard error of 0.5
        (2, "-20.50 [-26.85, -14.15], n 2"),
        (3, "CoLA dev: accuracy; other, bf16"),
        (4, "+2.00, n 2"),
    }
    drawn = {place: [] for place in (1, 2, 4)}
    for line in axis.lines:
        if line.get_ydata()[0] in drawn:
            drawn[line.get_ydata()[0]].append((line.get_marker(), sorted(map(float, line.get_xdata()))))
    assert drawn[1] == [("|", [1, 2]), ("None", pytest.approx([-4.853, 7.853], abs=1e-3)), ("o", [1.5]), (">", [7.0])]
    assert drawn[2][-1] == ("<", [-7.0])  # which is where the axis ends
    assert drawn[4] == [("|", [2, 2]), ("v", [2])]


def test_a_row_that_predicts_one_class_is_named_and_not_drawn(tmp_path, unsaved, caplog):
    """By Matthews' correlation, and by F1 beside accuracy; accuracy alone does not tell."""
    caplog.set_level("INFO", "asa")
    majority = {"f1": 80.0, "accuracy": 200 / 3}  # 2 a / (1 + a) of two thirds
    for seed in (1, 2):
        for method, score, best in (
            ("naive", 20.0, 20.0),
            ("freelb", 0.0 if seed == 1 else -3.0, 5.0),
            ("smart", 0.0 if seed == 1 else 1.0, 1.0),
        ):
            write_run(tmp_path / "CoLA", method, seed, [best, score], task_name="CoLA")
        write_run(tmp_path / "SST-2", "naive", seed, [50.0])
        write_run(tmp_path / "SST-2", "asa", seed, [50.0])
        for method, metrics in (
            ("naive", {"f1": 82.0, "accuracy": 70.0}),
            ("rdrop", majority),
            ("r3f", majority if seed == 1 else majority | {"accuracy": 66.0}),
            ("asa", {"f1": 100.0, "accuracy": 100.0}),
        ):
            folder = write_run(tmp_path / "MRPC", method, seed, [metrics["f1"]], task_name="MRPC")
            results = json.loads((folder / "results.json").read_text())
            results["epochs"][0]["metrics"] = metrics
            (folder / "results.json").write_text(json.dumps(results))
    output = str(tmp_path / "all.png")
    differences.main([*(str(tmp_path / name) for name in ("CoLA", "SST-2", "MRPC")), "--output", output])
    axis = unsaved[0].axes[0]
    said = "not drawn, as every seed is no better than one class throughout: freelb on CoLA; rdrop on MRPC"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["", "smart", "", "asa", "", "asa", "r3f"]
    assert axis.get_xlabel().replace("\n", " ") == f"{differences.AXIS} {said}"
    assert caplog.messages[-1] == f"4 rows: {output}; {said}"


def test_a_row_that_is_not_drawn_has_its_encoder_if_there_are_several(tmp_path, caplog):
    caplog.set_level("INFO", "asa")
    for seed in (1, 2):
        for encoder, score in (("small", 10.0), ("large", 0.0)):
            for method, given in (("naive", 20.0), ("freelb", score)):
                write_run(tmp_path / encoder, method, seed, [given], task_name="CoLA", load_model_path=encoder)
    differences.main([str(tmp_path / "small"), str(tmp_path / "large"), "--output", str(tmp_path / "all.png")])
    assert caplog.messages[-1].endswith(
        "; not drawn, as every seed is no better than one class throughout: freelb on CoLA (large, bf16)"
    )


def test_nothing_but_rows_that_predict_one_class(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / "grid", "naive", seed, [20.0], task_name="CoLA")
        write_run(tmp_path / "grid", "freelb", seed, [0.0], task_name="CoLA")
    said = message(differences.main, [str(tmp_path / "grid"), "--output", str(tmp_path / "all.png")])
    assert said == (
        f"{tmp_path}/grid: nothing to draw (not drawn, as every seed is no better than one class"
        " throughout: freelb on CoLA)"
    )
    assert not (tmp_path / "all.png").exists()


def test_differences_want_two_seeds_of_both(tmp_path):
    write_run(tmp_path / "grid", "naive", 1, [90.0])
    for seed in (1, 2):
        write_run(tmp_path / "grid", "asa", seed, [91.0])
    said = message(differences.main, [str(tmp_path / "grid"), "--output", str(tmp_path / "all.png")])
    assert said == f"{tmp_path}/grid: no method has 2 seeds in common with plain fine-tuning"
    assert not (tmp_path / "all.png").exists()


def test_differences_of_fewer_pairs_are_left_out(tmp_path, figures):
    for seed in (1, 2, 3):
        write_run(tmp_path / "grid", "naive", seed, [90.0])
        write_run(tmp_path / "grid", "asa_budget", seed, [91.0], asa_budget=0.2)
        if seed < 3:
            write_run(tmp_path / "grid", "rdrop", seed, [92.0])
    arguments = [str(tmp_path / "grid"), "--output", str(tmp_path / "all.png")]
    for pairs, labels in (("3", ["", "asa_budget 0.2"]), ("2", ["", "rdrop", "asa_budget 0.2"])):
        differences.main([*arguments, "--pairs", pairs])
        assert [label.get_text() for label in figures[-1].axes[0].get_yticklabels()] == labels
    said = message(differences.main, [*arguments, "--pairs", "4"])
    assert said == f"{tmp_path}/grid: no method has 4 seeds in common with plain fine-tuning"
