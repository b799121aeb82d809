"""How the results of runs and of evaluations are read, and which of them have the same settings."""

import json
import shutil
from pathlib import Path

from recorded_runs import write_run
from script_runs import message, results_of

from data.tasks import TASKS
from experiments.groups import grouped
from experiments.records import different_settings, missing, parsed, read_results, settings
from experiments.tables import report
from training import arguments


def test_what_is_no_results_file(tmp_path):
    assert message(report, tmp_path, [], {}).startswith(f"{tmp_path}: no results.json of an evaluated run")
    (tmp_path / "grid.json").write_text("{}")
    assert message(missing, tmp_path) == f"{tmp_path / 'grid.json'}: not the plan of a grid"
    (tmp_path / "results.json").write_text("[]")
    assert message(read_results, tmp_path) == f"{tmp_path / 'results.json'}: not the results file of a run"
    assert message(read_results, tmp_path / "typo") == f"{tmp_path / 'typo'}: no such folder"
    assert message(read_results, tmp_path / "grid.json") == f"{tmp_path / 'grid.json'}: a file, not a folder"


def test_records_with_impossible_values_are_named(tmp_path):
    run = write_run(tmp_path / "grid", "asa", 1, [90.0])
    good = results_of(run)
    [epoch] = good["epochs"]
    changes = [{"epochs": [epoch | change]} for change in ({"global_step": 0}, {"eval_score": "x"})]
    changes += [{"epochs": [epoch | {"eval_score": float("nan")}]}, {"args": good["args"] | {"seed": "x"}}]
    for change in changes:
        (run / "results.json").write_text(json.dumps(good | change))
        assert message(read_results, tmp_path / "grid") == f"{run / 'results.json'}: not the results file of a run"
    (run / "results.json").write_text(json.dumps(good))
    (run / "on-x").mkdir()
    (run / "on-x" / "evaluation.json").write_text('{"args": {}}')
    said = message(read_results, tmp_path / "grid")
    assert said == f"{run / 'on-x' / 'evaluation.json'}: not the results file of an evaluation"


def test_runs_scored_on_different_test_files_are_not_one_setting():
    given = ["--do_train", "--do_eval", "--task_name", "mine", "--train_file", "train.csv", "--test_file", "a/easy.csv"]
    easy, hard, moved, dev = (
        vars(arguments.of_script("run_sent_clas", [*given, "--dev_file", "dev.csv", "--eval_on", eval_on]))
        for eval_on in ("test", "test", "test", "dev")
    )
    hard["test_file"], moved["test_file"] = ["a/hard.csv"], ["b/easy.csv"]
    assert settings(easy) != settings(hard)
    assert settings(easy) == settings(moved)
    assert settings(dev) == settings(dev | {"test_file": ["a/hard.csv"]})  # where it is only predicted


def evaluation(run: Path, name: str, score: float, **changes) -> None:
    """An evaluation of a run's last checkpoint, in a folder below the run's."""
    args = results_of(run)["args"] | {"test_model_file": "0_pytorch_model.bin", "eval_masks": None, **changes}
    scored = {
        "args": args,
        "precision": "bf16",
        "examples": {"eval": 5},
        "eval_score": score,
        "metrics": {"accuracy": score},
    }
    (run / name).mkdir()
    (run / name / "evaluation.json").write_text(json.dumps(scored | changes.get("record", {})))


def test_evaluations_are_told_apart_by_what_they_score_and_how(tmp_path):
    cases = {
        "dev": {"dev_file": ["x/dev.csv"], "test_file": ["other.csv"]},
        "test": {"dev_file": ["x/dev.csv"], "test_file": ["x/other.csv"], "eval_on": "test"},
        "short": {"dev_file": ["dev.csv"], "max_seq_length": 32},
        "fp32": {"dev_file": ["dev.csv"], "record": {"precision": "fp32"}},
        "release": {"dev_file": ["dev.csv"], "protocol": "release"},
        "paper": {"dev_file": ["dev2.csv"], "protocol": "paper"},  # the former name of corrected
        "masks": {"eval_masks": "random", "method": "random_mask", "random_mask_budget": 0.1, "asa_layers": [0]},
    }
    run = write_run(tmp_path, "naive", 1, [90.0])
    for name, changes in cases.items():
        evaluation(run, name, 80.0, **changes)
    first, *found = read_results(tmp_path)
    assert {Path(each.predictions).parts[-3]: (each.scored_on, each.precision, each.same_rows) for each in found} == {
        "dev": ("SST-2 dev.csv", "bf16", False),
        "test": ("SST-2 other.csv", "bf16", False),
        "short": ("SST-2 dev.csv, max_seq_length 32", "bf16", False),
        "fp32": ("SST-2 dev.csv, in fp32", "bf16", False),
        "release": ("SST-2 dev.csv, protocol release", "bf16", False),
        "paper": ("SST-2 dev2.csv", "bf16", False),
        "masks": ("SST-2 dev under random masks (random_mask_budget 0.1, asa_layers 0)", "bf16", True),
    }
    assert len(grouped([first, *found])) == 8


def test_models_trained_in_other_precisions_are_apart_wherever_they_are_scored(tmp_path):
    for seed, precision in ((1, "fp16"), (2, "bf16")):
        run = write_run(tmp_path, "naive", seed, [90.0])
        (run / "results.json").write_text(json.dumps(results_of(run) | {"precision": precision}))
        evaluation(run, "dev", 80.0, dev_file=["dev.csv"], record={"precision": "fp32"})
    groups = {
        (group.first.scored_on, group.first.precision): list(group.results) for group in grouped(read_results(tmp_path))
    }
    scored = "SST-2 dev.csv, in fp32"
    assert groups == {("dev", "fp16"): [1], (scored, "fp16"): [1], ("dev", "bf16"): [2], (scored, "bf16"): [2]}


def test_the_evaluation_of_another_run_s_checkpoint_does_not_count(tmp_path, monkeypatch):
    """By its path, where that exists; records may have been copied, and checkpoints removed."""
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        run = write_run(tmp_path / "runs", "naive", seed, [90.0])
        (run / "0_pytorch_model.bin").touch()
        evaluation(run, "hard", 80.0, dev_file=["hard.csv"], test_model_file="runs/naive1/0_pytorch_model.bin")
    said = [(each.name, each.scored_on) for each in read_results(tmp_path / "runs")]
    assert said == [("naive1", "dev"), ("naive1/hard", "SST-2 hard.csv"), ("naive2", "dev")]
    copied = shutil.copytree(tmp_path / "runs", tmp_path / "copy" / "runs", ignore=shutil.ignore_patterns("*.bin"))
    assert [each.name for each in read_results(copied)] == ["naive1", "naive1/hard", "naive2"]


def test_a_run_without_scores_of_its_own_has_those_of_its_evaluations(tmp_path):
    run = write_run(tmp_path, "naive", 1, [90.0])
    record = results_of(run)
    record["epochs"][0] |= {"eval_score": None, "metrics": {}}
    (run / "results.json").write_text(json.dumps(record | {"best": None}))
    evaluation(run, "later", 80.0, dev_file=["dev.csv"])
    assert [(each.scored_on, each.last) for each in read_results(tmp_path)] == [("SST-2 dev.csv", 80.0)]


def test_another_setting_is_named():
    args = parsed(TASKS["CoLA"], ["--do_train", "--task_name", "CoLA", "--method", "naive"])
    assert different_settings({"args": args}, args | {"tau": 3, "num_workers": 4, "data_dir": "elsewhere"}) == ""
    assert different_settings({"args": args}, args | {"gradient_accumulation_steps": 2}) == ""
    assert different_settings({"args": args}, args | {"max_grad_norm": 1.0, "bf16": True}) == (
        "bf16 False, not True, max_grad_norm 0.0, not 1.0"
    )
    training, own = settings(args | {"method": "random_mask"})
    assert own == {
        "random_mask_keep_rate": 0.9,
        "random_mask_budget": None,
        "asa_layers": None,
        "asa_divergence_weight": 1.0,
    }
    assert {"protocol", "learning_rate", "load_model_path", "eval_on"} <= training.keys()
    assert not {"tau", "seed", "output_dir", "rdrop_alpha", "resume"} & training.keys()
