"""The row budget against its control: what is chosen on one half of the rows, and what the other half says."""

import json

import numpy as np
import pytest
from recorded_runs import write_run
from script_runs import message

from data.predictions import file_name
from experiments import halves

ROWS = 40


def record(folder, method: str, seed: int, right: set[int], **changes) -> None:
    """A run of SST-2 whose predictions are right on some rows; the labels alternate."""
    import pyarrow
    from pyarrow import parquet

    labels = [row % 2 for row in range(ROWS)]
    found = [label if row in right else 1 - label for row, label in enumerate(labels)]
    logits = [[1.0 - each, float(each)] for each in found]
    name = f"{method}-{'-'.join(map(str, changes.values()))}/{seed}"
    run = write_run(folder, method, seed, [50.0], name=name, **changes)
    (run / "predictions").mkdir()
    table = pyarrow.table({"index": list(map(str, range(ROWS))), "label": labels, "logits": logits})
    parquet.write_table(table, run / "predictions" / file_name("SST-2"))


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
    assert said[2].startswith(
        "| SST-2 | accuracy | 0.2 of 0.05, 0.1, 0.2 | 40.00 | **random_mask, random_mask_budget 0.2"
    )


def test_nothing_to_compare(tmp_path):
    record(tmp_path, "naive", 1, set())
    assert message(halves.main, [str(tmp_path)]) == f"{tmp_path}: no runs of asa_budget with predictions"
