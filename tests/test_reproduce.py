"""The table of results."""

import json

import pytest

from reproduce import read_results, report
from utils import InputError


def write_run(folder, method: str, seed: int, scores: list[float], minutes: float = 1.0, **changes) -> None:
    settings = {
        "task_name": "SST-2",
        "eval_on": "dev",
        "load_model_path": "encoder",
        "method": method,
        "output_dir": f"{method}{seed}",
        "tau": 0.5,
        "seed": seed,
        **changes,
    }
    epochs = [{"eval_score": score, "metrics": {"accuracy": score}, "seconds": 60 * minutes} for score in scores]
    run = {"args": settings, "precision": "bf16", "examples": {"eval": 1872}, "epochs": epochs}
    best = max(epochs, key=lambda epoch: epoch["eval_score"])
    (folder / settings["output_dir"]).mkdir(parents=True)
    (folder / settings["output_dir"] / "results.json").write_text(json.dumps(run | {"best": best}))


def test_a_row_for_each_setting_over_its_seeds(tmp_path):
    write_run(tmp_path, "asa", 1, [92.0, 90.0], minutes=3)
    write_run(tmp_path, "asa", 2, [91.0, 94.0], minutes=4)
    write_run(tmp_path, "naive", 1, [90.0, 91.5])
    write_run(tmp_path, "naive", 1, [80.0, 81.5], output_dir="other", tau=0.1)  # another setting, not another seed
    assert report(read_results(tmp_path)).splitlines() == [
        "| encoder | task | scored on | method | seeds | metric | last epoch | best epoch | training, minutes |",
        "|---|---|---|---|---|---|---|---|---|",
        "| encoder | SST-2 | dev, 1,872 | asa | 2 | accuracy | 92.00 ± 2.83 | 93.00 ± 1.41 | 7.0 |",
        "| encoder | SST-2 | dev, 1,872 | naive | 1 | accuracy | 91.50 | 91.50 | 2.0 |",
        "| encoder | SST-2 | dev, 1,872 | naive | 1 | accuracy | 81.50 | 81.50 | 2.0 |",
    ]
    write_run(tmp_path, "asa", 1, [92.0], output_dir="again")
    with pytest.raises(InputError, match="two runs of one setting have the seed 1: again and asa1"):
        report(read_results(tmp_path))


def test_what_is_no_results_file(tmp_path):
    with pytest.raises(InputError, match=r"no results\.json of an evaluated run"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(InputError, match="not the results file of a run"):
        read_results(tmp_path)
