"""Arguments from files: what is typed wins, a recorded run is repeated, and what is no argument is named."""

import json

import pytest
from script_runs import message
from test_data import write

from training import arguments, trackers

TRAIN = ["--do_train", "--task_name", "SST-2"]


def of(*argv, script="run_sent_clas") -> dict:
    return vars(arguments.of_script(script, list(map(str, argv))))


def test_a_recorded_run_is_repeated_to_the_letter(tmp_path):
    given = [*TRAIN, "--do_eval", "--tau", "0.1", "--asa_layers", "0-2", "--bf16", "--no_group_by_length"]
    recorded = of(*given, "--no_token_cache", "--seed", "7", "--output_dir", "old", "--overwrite_output_dir")
    recorded["fsdp"] = True  # which one process cannot have
    write(tmp_path / "results.json", json.dumps({"args": recorded}))
    again = of("--args_from", tmp_path)
    changed = {name for name in recorded if recorded[name] != again[name]}
    assert changed == {"args_from", "fsdp", "output_dir", "overwrite_output_dir"}
    assert again["asa_layers"] == [0, 1, 2]
    assert (again["group_by_length"], again["output_dir"], again["token_cache_dir"]) == (False, "model", None)
    assert of("--args_from", tmp_path, "--token_cache_dir", "x")["token_cache_dir"] == "x"


def test_flags_beside_a_file_win(tmp_path):
    recorded = of(*TRAIN, "--tau", "0.1", "--bf16")
    write(tmp_path / "results.json", json.dumps({"args": recorded | {"protocol": "paper", "gone": 1}}))
    checkpoint = tmp_path / "x.bin"
    checkpoint.touch()
    again = of("--args_from", tmp_path, "--do_eval", "--test_model_file", checkpoint, "--fp16", "--seed=3")
    assert (again["do_train"], again["do_eval"]) == (False, True)
    assert (again["fp16"], again["bf16"], again["tau"], again["seed"]) == (True, False, 0.1, 3)
    assert again["protocol"] == "corrected"


@pytest.mark.parametrize(
    ("recorded", "typed", "found"),
    [
        (["--max_train_steps", "9"], ["--num_train_epochs", "5"], {"max_train_steps": None, "num_train_epochs": 5}),
        (
            ["--method", "random_mask", "--random_mask_budget", "0.1"],
            ["--random_mask_keep_rate", "0.8"],
            {"random_mask_budget": None, "random_mask_keep_rate": 0.8},
        ),
        (["--train_file", "mine.csv"], ["--train_file", "other.csv"], {"task_name": None}),
        (["--train_file", "mine.csv"], ["--dev_file", "more.csv"], {"task_name": "SST-2", "train_file": ["mine.csv"]}),
        ([], ["--protocol", "release"], {"pad_to_max_length": True, "group_by_length": False}),
        (["--protocol", "release"], ["--protocol", "corrected"], {"pad_to_max_length": False, "group_by_length": True}),
        ([], ["--pad_to_max_length"], {"group_by_length": False}),
        (
            ["--model_type", "bert", "--attn_implementation", "sdpa"],
            ["--load_model_path", "other"],
            {"model_type": None, "attn_implementation": None},
        ),
    ],
)
def test_what_follows_from_a_flag_is_not_taken_from_a_recorded_run(recorded, typed, found, tmp_path):
    write(tmp_path / "results.json", json.dumps({"args": of(*TRAIN, *recorded)}))
    again = of("--args_from", tmp_path, *typed)
    assert {name: again[name] for name in found} == found


def test_other_data_than_those_of_a_recorded_run(tmp_path):
    """Its configuration, and the share that it held out, were of its own data."""
    recorded = of("--do_train", "--dataset_name", "films", "--dataset_config_name", "old")
    write(tmp_path / "results.json", json.dumps({"args": recorded}))
    again = of("--args_from", tmp_path, "--train_file", "x.csv")
    assert (again["dataset_name"], again["dataset_config_name"]) == (None, None)
    recorded = of("--do_train", "--train_file", "x.csv", "--do_eval")
    write(tmp_path / "results.json", json.dumps({"args": recorded}))
    again = of("--args_from", tmp_path, "--dataset_name", "films")
    assert (recorded["dev_fraction"], again["dev_fraction"]) == (0.1, None)


def test_what_only_training_reads_does_not_stop_an_evaluation(tmp_path, monkeypatch):
    """The tracker and the optimizer of a recorded run may be missing where its model is scored."""
    monkeypatch.setattr(trackers, "_installed", lambda name: False)
    recorded = of(*TRAIN) | {"report_to": "wandb", "optimizer": "apex_fused_adam"}
    write(tmp_path / "results.json", json.dumps({"args": recorded}))
    (tmp_path / "x.bin").touch()
    assert of("--args_from", tmp_path, "--do_eval", "--test_model_file", tmp_path / "x.bin")["report_to"] == "none"
    assert message(of, "--args_from", tmp_path).startswith("--report_to wandb: the package is not installed")


def test_what_older_runs_did_is_repeated(tmp_path):
    recorded = of(*TRAIN, "--method", "freelb")
    del recorded["freelb_embedding_norm"]
    write(tmp_path / "results.json", json.dumps({"args": recorded}))
    assert of("--args_from", tmp_path)["freelb_embedding_norm"] == 0.0


def test_a_configuration_beside_a_recorded_run_wins(tmp_path):
    write(tmp_path / "results.json", json.dumps({"args": of(*TRAIN, "--bf16", "--max_train_steps", "9")}))
    write(tmp_path / "a.yaml", "fp16: true", "num_train_epochs: 2")
    again = of("--args_from", tmp_path, "--config", tmp_path / "a.yaml")
    assert (again["fp16"], again["bf16"], again["max_train_steps"], again["num_train_epochs"]) == (True, False, None, 2)


def test_a_configuration_in_yaml(tmp_path):
    write(tmp_path / "a.yaml", "task_name: CoLA", "do_train: true", "tau: 0.25", "asa_layers: [1, 3]", "bf16: false")
    with open(tmp_path / "a.yaml", "a") as file:
        file.write("token_cache_dir: null\nmodel_type: null\n")
    args = of("--config", tmp_path / "a.yaml", "--tau", "0.3")
    assert (args["task_name"], args["do_train"], args["tau"]) == ("CoLA", True, 0.3)
    assert (args["asa_layers"], args["bf16"]) == ([1, 3], False)
    assert (args["token_cache_dir"], args["model_type"]) == (None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("taau: 1", "taau: no such argument; did you mean tau?"),
        ("tau: [", "not valid YAML"),
        ("- tau", "names of arguments with their values are expected, as in `tau: 0.3`"),
        ("tau: true", "tau: a value is expected, not true"),
        ("args_from: x", "args_from names a further file: give it on the command line"),
    ],
)
def test_what_a_configuration_cannot_say(text, said, tmp_path):
    write(tmp_path / "a.yaml", text)
    assert said in message(of, *TRAIN, "--config", tmp_path / "a.yaml")


def test_files_that_are_none(tmp_path, capsys):
    assert message(of, "--args_from", tmp_path / "x").endswith("x: cannot be read (No such file or directory)")
    with pytest.raises(SystemExit):
        of(*TRAIN, "--args_from")
    assert "error: argument --args_from: expected one argument (see --help)" in capsys.readouterr().err
    write(tmp_path / "results.json", "{}")
    assert message(of, "--args_from", tmp_path).endswith("results.json: not the results.json of a run")
    write(tmp_path / "a.yaml", "tau: -1")
    with pytest.raises(SystemExit):
        of(*TRAIN, "--config", tmp_path / "a.yaml")
    assert "argument --tau: '-1' is not a number from 0" in capsys.readouterr().err


def test_what_a_typed_flag_replaces_is_told(tmp_path, caplog):
    caplog.set_level("INFO")
    write(tmp_path / "x.yaml", "do_train: true", "do_eval: true", "task_name: SST-2", "bf16: false")
    args = of("--config", tmp_path / "x.yaml", "--do_train")
    assert (args["do_train"], args["do_eval"]) == (True, False)
    said = f"--config {tmp_path / 'x.yaml'}: not used, because of other arguments: do_eval"
    assert said in caplog.text.splitlines()[-1]


def test_a_switch_that_turns_something_off_may_stand_in_a_file(tmp_path):
    write(tmp_path / "x.yaml", "no_token_cache: true", "no_group_by_length: false")
    args = of("--config", tmp_path / "x.yaml", *TRAIN)
    assert (args["token_cache_dir"], args["group_by_length"]) == (None, True)


def test_a_typed_flag_without_effect_is_told(monkeypatch, caplog):
    typed = [*TRAIN, "--asa_budget", "0.2", "--tau=0.1", "--liveness_steps", "5"]
    monkeypatch.setattr("sys.argv", ["run_sent_clas.py", *typed])
    arguments.of_script("run_sent_clas", None)
    assert [record.message for record in caplog.records] == ["--asa_budget has no effect with --method asa"]
    caplog.clear()
    monkeypatch.setattr("sys.argv", ["run_sent_clas.py", *typed, "--method", "naive"])
    arguments.of_script("run_sent_clas", None)
    told = [record.message.partition(" ")[0] for record in caplog.records]
    assert sorted(told) == ["--asa_budget", "--liveness_steps", "--tau"]


def test_home_is_not_a_folder_called_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "x.yaml", "tau: 0.3", "data_dir: ~/sets")
    args = of(*TRAIN, "--output_dir=~/runs", "--config=~/x.yaml")
    assert (args["output_dir"], args["data_dir"]) == (str(tmp_path / "runs"), str(tmp_path / "sets"))
    assert args["tau"] == 0.3
