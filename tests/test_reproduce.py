"""The table of results."""

import json

import pytest

from reproduce import read_results, report
from utils import InputError


def write_run(folder, method: str, seed: int, scores: list[float], minutes: float = 1.0) -> None:
    settings = {
        "task_name": "SST-2",
        "eval_on": "dev",
        "load_model_path": "encoder",
        "method": method,
        "protocol": "paper",
        "tau": 0.5,
        "num_train_epochs": len(scores),
        "learning_rate": 2e-5,
        "seed": seed,
    }
    epochs = [{"eval_score": score, "metrics": {"accuracy": score}, "seconds": 60 * minutes} for score in scores]
    run = {"args": settings, "examples": {"eval": 1872}, "epochs": epochs}
    (folder / f"{method}{seed}").mkdir(parents=True)
    best = max(epochs, key=lambda epoch: epoch["eval_score"])
    (folder / f"{method}{seed}" / "results.json").write_text(json.dumps(run | {"best": best}))


def test_a_row_for_each_setting_over_its_seeds(tmp_path):
    write_run(tmp_path, "asa", 1, [92.0, 90.0], minutes=3)
    write_run(tmp_path, "asa", 2, [91.0, 94.0], minutes=4)
    write_run(tmp_path, "naive", 1, [90.0, 91.5])
    assert report(read_results(tmp_path)).splitlines() == [
        "| task | scored on | method | seeds | metric | last epoch | best epoch | training, minutes |",
        "|---|---|---|---|---|---|---|---|",
        "| SST-2 | dev, 1,872 | asa | 2 | accuracy | 92.00 ± 2.83 | 93.00 ± 1.41 | 7.0 |",
        "| SST-2 | dev, 1,872 | naive | 1 | accuracy | 91.50 | 91.50 | 2.0 |",
    ]


def test_what_is_no_results_file(tmp_path):
    with pytest.raises(InputError, match=r"no results\.json of an evaluated run"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(InputError, match="not the results file of a run"):
        read_results(tmp_path)
