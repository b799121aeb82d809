"""The row budget against its control: what is chosen on one half of the rows, and what the other half says."""

import json

import numpy as np
import pytest
from recorded_runs import write_run
from script_runs import message

from data.predictions import file_name
from experiments import halves

ROWS = 40


def record(folder, method: str, seed: int, right: set[int], elsewhere: set[int] | None = None, **changes) -> None:
    """A run of SST-2 whose predictions are right on some rows; the labels alternate.

    Args:
        elsewhere: the rows of another set on which they are right; without them, it was not scored there.
    """
    name = f"{method}-{'-'.join(map(str, changes.values()))}/{seed}"
    run = write_run(folder, method, seed, [50.0], name=name, **changes)
    write_rows(run / "predictions" / file_name("SST-2"), right)
    if elsewhere is not None:
        write_rows(run / "on-hard" / "predictions" / "hard.parquet", elsewhere)
        args = {"task_name": "SST-2", "eval_on": "dev", "eval_file": "/sets/hard.tsv", "method": method}
        args |= {"test_model_file": f"{run}/0_pytorch_model.bin"}
        scores = {"examples": {"eval": ROWS}, "eval_score": 50.0, "metrics": {"accuracy": 50.0}}
        (run / "on-hard" / "evaluation.json").write_text(json.dumps({"args": args, **scores}))


def write_rows(path, right: set[int]) -> None:
    import pyarrow
    from pyarrow import parquet

    labels = [row % 2 for row in range(ROWS)]
    found = [label if row in right else 1 - label for row, label in enumerate(labels)]
    logits = [[1.0 - each, float(each)] for each in found]
    path.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.table({"index": list(map(str, range(ROWS))), "label": labels, "logits": logits}), path)


def test_the_halves_are_all_the_rows_and_always_the_same():
    choosing, reporting = halves.halves(41)
    assert (len(choosing), len(reporting)) == (20, 21)
    assert sorted([*choosing, *reporting]) == list(range(41))
    assert np.array_equal(halves.halves(41)[0], choosing)
    assert 5 < (choosing % 2).sum() < 15


def test_what_is_chosen_and_reported(tmp_path, capsys):
    """0.2 is the best where one chooses, and the worst where one reports."""
    choosing, reporting = (list(map(int, half)) for half in halves.halves(ROWS))
    for seed in (1, 2, 3):
        for beta, good, other in ((0.05, 10, 20), (0.1, 12, 20), (0.2, 16, 10)):
            right = {*choosing[:good], *reporting[: other - seed]}
            record(tmp_path, "asa_budget", seed, right, asa_budget=beta)
            record(tmp_path, "random_mask", seed, {*choosing, *reporting[: other - 2]}, random_mask_budget=beta)
        record(tmp_path, "naive", seed, set(reporting[:5]))
        record(tmp_path, "naive", seed, set(reporting[:15]), num_train_epochs=6)
    output = tmp_path / "halves.json"
    halves.main([str(tmp_path), "--output", str(output)])
    [found] = json.loads(output.read_text())["sets"]
    assert [(each["budget"], each["mean"]) for each in found["choosing"]] == [(0.05, 50), (0.1, 60), (0.2, 80)]
    assert found["budget"] == 0.2
    assert found["reporting"] == {"mean": pytest.approx(40.0), "deviation": pytest.approx(5.0)}  # 9, 8 and 7 of 20
    control, *others = found["against"]
    assert control["control"]
    assert control["settings"] == "random_mask_budget 0.2"
    assert control["score"]["mean"] == pytest.approx(40)
    assert control["difference"] == pytest.approx(0)
    assert (control["pairs"], control["low"] < 0 < control["high"]) == (3, True)
    assert control["rows_low"] < 0 < control["rows_high"]
    assert {(row["method"], row["settings"]): round(row["difference"]) for row in others} == {
        ("naive", ""): 15,
        ("naive", "num_train_epochs 6"): -35,
    }
    said = capsys.readouterr().out.splitlines()
    assert (
        said[2]
        .partition(" | ")[2]
        .startswith(
            "SST-2 | dev, 20 | accuracy | 0.2 of 0.05, 0.1, 0.2 | 40.00 | **random_mask, random_mask_budget 0.2"
        )
    )


def test_another_set_has_the_budget_that_was_chosen_on_the_task_s_own(tmp_path, capsys):
    """All of its rows count, although another budget would be better there."""
    choosing, reporting = (list(map(int, half)) for half in halves.halves(ROWS))
    for seed in (1, 2):
        for beta, good, there in ((0.05, 20, 30), (0.1, 10, 40)):
            record(tmp_path, "asa_budget", seed, {*choosing[:good]}, {*range(there - seed)}, asa_budget=beta)
        record(tmp_path, "random_mask", seed, {*reporting}, {*range(20)}, random_mask_budget=0.05)
    output = tmp_path / "halves.json"
    halves.main([str(tmp_path), "--output", str(output)])
    own, other = json.loads(output.read_text())["sets"]
    assert (own["budget"], own["rows"], own["reporting"]["mean"]) == (0.05, {"choosing": 20, "reporting": 20}, 0)
    assert (other["budget"], other["choosing"], other["rows"]) == (0.05, [], {"choosing": 0, "reporting": 40})
    assert (other["scored_on"], other["reporting"]["mean"]) == ("SST-2 hard.tsv", pytest.approx(71.25))  # 29 and 28
    [control] = other["against"]
    assert control["difference"] == pytest.approx(21.25)
    assert " | SST-2 | SST-2 hard.tsv, 40 | accuracy | 0.05 | 71.25 | " in capsys.readouterr().out


def test_of_a_single_budget_all_rows_are_reported(tmp_path):
    for seed in (1, 2):
        record(tmp_path, "asa_budget", seed, {*range(30)}, asa_budget=0.1)
        record(tmp_path, "random_mask", seed, {*range(20)}, random_mask_budget=0.1)
    output = tmp_path / "halves.json"
    halves.main([str(tmp_path), "--output", str(output)])
    [found] = json.loads(output.read_text())["sets"]
    assert (found["budget"], found["choosing"], found["rows"]["reporting"]) == (0.1, [], ROWS)
    assert (found["reporting"]["mean"], found["against"][0]["difference"]) == (75, 25)


def test_nothing_to_compare(tmp_path):
    record(tmp_path, "naive", 1, set())
    assert message(halves.main, [str(tmp_path)]) == f"{tmp_path}: no runs of asa_budget with predictions"
