"""Own data in all the rest: several processes, grids, reports, figures, the arguments of a run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from children import run_both
from matplotlib.figure import Figure
from own_tables import asked, conll, lists, rows_of_films, table
from recorded_runs import table as report_table
from recorded_runs import write_run
from script_runs import exit_status, message, results_of

import reproduce
import run_multi_cho
import run_sent_clas
from data import own
from data.features import Features
from data.predictions import write_predictions
from data.tasks import TASKS
from experiments import plan
from figures import attention_maps, training_curves
from training import arguments

pytestmark = pytest.mark.usefixtures("offline")


# --- all the rest ---


def test_two_processes_share_rows_with_different_numbers_of_choices(script, tmp_path, encoder_folder):
    """One of them may have more batches of a step than the other."""
    train = table(tmp_path / "train.jsonl", asked("letter") * 2)
    given = [
        "--do_train",
        "--do_eval",
        "--train_file",
        train,
        "--dev_fraction",
        "0.25",
        "--task_name",
        "x",
        "--no_cuda",
    ]
    given += ["--load_model_path", encoder_folder, "--max_seq_length", "32", "--train_batch_size", "4"]
    given += ["--max_train_steps", "2", "--output_dir"]
    assert exit_status(run_multi_cho.main, *given, str(tmp_path / "one")) == 0
    statuses, said = run_both("run_multi_cho", [*given, str(tmp_path / "two")], tmp_path)
    assert statuses == [0, 0], said
    one, two = (results_of(tmp_path / name)["best"] for name in ("one", "two"))
    assert [two[name] for name in ("train_loss", "eval_loss")] == pytest.approx(
        [one[name] for name in ("train_loss", "eval_loss")], rel=1e-5
    )
    assert two["metrics"] == one["metrics"]


@pytest.mark.parametrize(
    ("write", "name", "script_name"),
    [
        (lambda path: table(path, rows_of_films(6)), "train.csv", "run_sent_clas"),
        (lambda path: table(path, rows_of_films(6)), "train.tsv", "run_sent_clas"),
        (lambda path: table(path, asked("letter", "columns")), "train.csv", "run_multi_cho"),
        (lambda path: table(path, asked("text")), "train.jsonl", "run_multi_cho"),
        (lists, "train.parquet", "run_tok_clas"),
        (lambda path: conll(path, mark=False), "train.tsv", "run_tok_clas"),
        (conll, "train.txt", "run_tok_clas"),
    ],
)
def test_a_folder_is_a_task_of_a_grid(write, name, script_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine" / name)
    args, extra = reproduce.parse_arguments(["main", "--tasks", "sst-2,mine", "--output_dir", "runs", "--seeds", "2"])
    tasks = [args.own_tasks.get(task) or TASKS[task] for task in args.tasks]
    runs = plan.plan_runs(Path("runs"), tasks, reproduce.variants_of(args), args.seeds, extra)
    mine = [run for run in runs if run.name.startswith("mine/")]
    assert [run.name for run in mine] == [
        f"mine/{method}/seed{seed}" for seed in (42, 43) for method in ("naive", "asa")
    ]
    for run in mine:
        assert Path(run.command[1]).stem == script_name
        assert (run.args["dataset_name"], run.args["dev_fraction"]) == ("mine", 0.1)
        again = own.task_of(arguments.of_script(script_name, run.command[2:]), arguments.SCRIPTS[script_name].tasks)
        assert (again.name, again.script) == ("mine", script_name)
    assert mine[0].steps == 3  # epochs of one step
    write(tmp_path / "mine" / name.replace("train", "dev"))
    assert plan.folder_task("mine").recipe.settings() == {"dataset_name": "mine"}


def test_a_run_that_has_cut_rows_to_its_encoder_is_finished(tmp_path, monkeypatch):
    """Also where a grid has other sets scored by its model."""
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "mine" / "train.csv", rows_of_films(6))
    task = plan.folder_task("mine")
    [run] = plan.plan_runs(Path("runs"), [task], [plan.Variant("naive", "naive")], 1, [])
    args = run.args | {"task_name": "mine"}
    epoch = {"epoch": 2, "global_step": 3}
    run.folder.mkdir(parents=True)
    for length, state in ((64, "finished"), (128, "finished"), (256, None)):
        recorded = {"args": args | {"max_seq_length": length}, "epochs": [epoch], "finished": True}
        (run.folder / "results.json").write_text(json.dumps(recorded))
        if state:
            assert plan.state(run) == state
        else:
            assert "(max_seq_length 256, not 128)" in message(plan.state, run)
    [_, scored] = plan.with_evaluations([run], {"mine": [plan.OtherSet("mine", "other.csv")]}, [])
    assert "--max_seq_length" not in scored.command
    [typed] = plan.plan_runs(Path("runs"), [task], [plan.Variant("naive", "naive")], 1, ["--max_seq_length", "40"])
    [_, scored] = plan.with_evaluations([typed], {"mine": [plan.OtherSet("mine", "other.csv")]}, [])
    assert scored.command[scored.command.index("--max_seq_length") + 1] == "40"


def test_a_tsv_file_without_blank_lines_is_a_table(tmp_path):
    """Whatever its columns are called: as a file with a word per line it would be one sentence."""
    phrases = [{"phrase": f"film {number}", "verdict": "ab"[number % 2]} for number in range(6)]
    table(tmp_path / "mine" / "train.tsv", phrases)
    assert plan.folder_task(str(tmp_path / "mine")).script == "run_sent_clas"


def test_folders_that_cannot_be_a_task_of_a_grid(tmp_path):
    def said(tasks: str) -> str:
        return message(reproduce.parse_arguments, ["main", "--tasks", tasks, "--output_dir", str(tmp_path)])

    table(tmp_path / "a" / "mine" / "train.csv", rows_of_films(6))
    table(tmp_path / "b" / "mine" / "train.csv", rows_of_films(6))
    assert "another folder is called mine too: rename one" in said(f"{tmp_path}/a/mine,{tmp_path}/b/mine")
    assert said(f"{tmp_path}/a") == f"--tasks {tmp_path}/a: it has no training file, train.csv or the like"
    assert said(f"{tmp_path}/c") == f"--tasks {tmp_path}/c: no such folder"


def test_a_grid_of_own_data_and_its_report(encoder_folder, tmp_path, capsys):
    table(tmp_path / "mine" / "train.csv", rows_of_films(8))
    table(tmp_path / "mine" / "dev.csv", rows_of_films(4))
    grid = ["main", "--tasks", str(tmp_path / "mine"), "--methods", "naive", "--seeds", "1", "--max_train_steps", "1"]
    grid += ["--encoder", encoder_folder, "--output_dir", str(tmp_path / "runs"), "--no_cuda"]
    grid += ["--", "--metric", "macro_f1", "--max_seq_length", "32"]
    for _ in range(2):  # the second time it is finished
        assert exit_status(reproduce.main, *grid) == 0
    assert "1 run, 1 finished, 0 to do" in capsys.readouterr().err
    [row] = report_table(tmp_path / "runs", "Main table")
    assert (row["task"], row["scored on"], row["metric"]) == ("mine", "dev, 4", "macro f1")
    place = f"{tmp_path.name}/mine"
    assert row["settings"] == f"fp32, max_seq_length 32, max_train_steps 1, dataset_name {place}, metric macro_f1"


def own_run(folder: Path, method: str, seed: int, score: float, **args) -> Path:
    """A finished run on own data, as the script leaves it."""
    path = write_run(folder, method, seed, [score], name=f"{method}{seed}-{len(list(folder.glob('*')))}")
    record = results_of(path)
    record["args"] |= {"task_name": "mine", "train_file": ["a/train.csv"], "dev_file": ["a/dev.csv"]} | args
    (path / "results.json").write_text(json.dumps(record))
    return path


def test_the_report_knows_own_data_by_the_names_of_their_files(tmp_path):
    for seed, place in ((1, "a"), (2, "elsewhere")):
        own_run(tmp_path, "naive", seed, 80.0, train_file=[f"{place}/train.csv"])
        own_run(tmp_path, "asa", seed, 81.0 + seed, train_file=[f"{place}/train.csv"])
    own_run(tmp_path, "naive", 1, 70.0, train_file=["a/other.csv"])
    own_run(tmp_path, "naive", 1, 60.0, dev_file=["a/other.csv"])
    write_run(tmp_path, "naive", 1, [50.0], name="known")
    rows = report_table(tmp_path, "Main table")
    mine = "bf16, learning_rate 2e-05, train_file {}, dev_file {}"
    assert [tuple(row[name] for name in ("task", "method", "settings", "n", "last epoch")) for row in rows] == [
        ("SST-2", "naive", "bf16", "1", "50.00"),
        ("mine", "naive", mine.format("other.csv", "dev.csv"), "1", "70.00"),
        ("mine", "naive", mine.format("train.csv", "dev.csv"), "2", "80.00 ± 0.00"),
        ("mine", "asa", mine.format("train.csv", "dev.csv"), "2", "82.50 ± 0.71"),
        ("mine", "naive", mine.format("train.csv", "other.csv"), "1", "60.00"),
    ]


def kept_predictions(folder: Path, labels: list[int], found: list[int]) -> None:
    rows = Features({"input_ids": [[1]] * len(labels)}, labels)
    write_predictions(folder / "predictions" / "mine.parquet", rows, [np.eye(3)[label] for label in found])


@pytest.mark.parametrize(
    ("metric", "labels", "args", "over_rows"),
    [
        ("accuracy", [0, 2, 1, 0], {}, True),
        ("macro_f1", [0, 2, 1, 0], {"metric": "macro_f1"}, False),
        ("matthews", [0, 1, 1, 0], {"metric": "matthews"}, True),
        ("matthews", [0, 2, 1, 0], {"metric": "matthews"}, False),
        ("accuracy", [0, 2, 1, 0], {"dev_fraction": 0.1, "dev_file": None}, False),
    ],
)
def test_intervals_over_rows_where_they_can_be_made(metric, labels, args, over_rows, tmp_path):
    for seed in (1, 2):
        for method in ("naive", "asa"):
            folder = own_run(tmp_path, method, seed, 80.0 + seed * (method == "asa"), **args)
            record = json.loads((folder / "results.json").read_text())
            record["epochs"][0]["metrics"] = {metric: record["epochs"][0]["eval_score"]}
            (folder / "results.json").write_text(json.dumps(record))
            other = labels[seed - 1 :] + labels[: seed - 1] if "dev_fraction" in args else labels
            kept_predictions(folder, other, [1, 0, *other[2:]][:seed] + other[seed:] if method == "asa" else other)
    said = [row["difference from fine-tuning, last epoch"] for row in report_table(tmp_path, "Main table")]
    assert ["rows too [" in cell for cell in said] == [False, over_rows]


def test_attention_maps_of_a_model_of_own_data(script, tmp_path, encoder_folder, monkeypatch, capsys):
    file = table(tmp_path / "x.csv", rows_of_films(4))
    assert script(run_sent_clas, "--do_train", "--train_file", file, max_train_steps=1) == 0
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.touch())
    flags = ["--model_file", str(tmp_path / "out" / "0_pytorch_model.bin"), "--load_model_path", encoder_folder]
    flags += ["--text", "a warm film", "--output_dir", str(tmp_path / "maps")]
    capsys.readouterr()
    attention_maps.main(flags)
    assert re.search(r"prediction: (good|bad) 0\.\d\d, under the mask (good|bad) 0\.\d\d", capsys.readouterr().out)
    assert (tmp_path / "maps" / "attention_maps.png").exists()
    (tmp_path / "out" / "best" / "config.json").unlink()
    assert message(attention_maps.main, flags).startswith("--task_name is missing, and there is no best/ folder beside")


def test_training_curves_of_own_data(tmp_path):
    folder = own_run(tmp_path, "asa", 3, 80.0)
    (folder / "metrics.jsonl").write_text('{"step": 1, "train_loss": 1.0}\n')
    assert training_curves.read_run(folder).label == "mine, asa, seed 3"


def test_other_data_with_the_arguments_of_a_run(tmp_path):
    """What is given beside them replaces what it excludes."""
    train, dev = (table(tmp_path / f"{name}.csv", rows_of_films(4)) for name in ("train", "dev"))
    recorded = vars(arguments.of_script("run_sent_clas", ["--do_train", "--do_eval", "--train_file", train]))
    (tmp_path / "results.json").write_text(json.dumps({"args": recorded}))

    def again(*flags: str):
        args = arguments.of_script("run_sent_clas", ["--args_from", str(tmp_path / "results.json"), *flags])
        return args.train_file, args.dev_file, args.dev_fraction, args.dataset_name

    assert again() == ([train], None, 0.1, None)
    assert again("--dev_file", dev) == ([train], [dev], None, None)
    assert again("--dataset_name", "films")[0] is None
