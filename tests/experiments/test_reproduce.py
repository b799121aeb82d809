"""Grids of runs: with a stand-in for the scripts, and once with a script."""

import json
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from recorded_runs import column, table
from script_runs import message, results_of
from test_data import write

import reproduce
from data.tasks import TASKS
from experiments import launch, plan
from experiments.records import missing, parsed, read_results
from experiments.tables import report
from models.methods import METHODS
from training import arguments
from utils import Interrupted, StopSignals, run_script

PAIRS = ("1\ta film\tthe film\t1", "2\ta plot\tthe story\t0", "3\ta score\tthe score\t1", "4\tdull\tfunny\t0")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A grid of CoLA whose runs take no time: `stand_in(arguments)` is its exit status, `stand_in.runs` what ran.

    A run writes a results file; with seed 13 it fails instead, with seed 14 it is cut off, until it is resumed, with
    seed 15 its log is lost, and with seed 16 its results are damaged.
    """
    script = tmp_path / "stand_in.py"
    script.write_text(
        textwrap.dedent(f"""
            import importlib, json, os, pathlib, sys
            argv, seed = sys.argv[1:], sys.argv[sys.argv.index("--seed") + 1]
            with open({str(tmp_path / "ran")!r}, "a") as file:
                file.write(" ".join(argv) + "\\n")
            given = {{flag[2:]: value for flag, value in zip(argv, argv[1:])}}
            if seed == "13":
                sys.exit("script: error: no luck")
            print("\\r 10%|#  | 1/10\\rhalf way\\n\\r100%|###| 10/10", end="")
            args = json.loads(pathlib.Path({str(tmp_path / "args.json")!r}).read_text())
            args |= {{"seed": int(seed), "method": given["method"], "output_dir": given["output_dir"]}}
            epoch = {{"epoch": 0, "global_step": 10, "seconds": 20, "eval_score": 5, "metrics": {{"matthews": 5}}}}
            run = {{"args": args, "examples": {{"train": 8551, "eval": 9}}, "epochs": [epoch], "best": epoch}}
            run["device"] = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")]
            run["finished"] = seed != "14" or "--resume" in argv
            folder = pathlib.Path(given["output_dir"])
            if seed == "15":
                (folder / "log.txt").unlink()
            for epoch in (8, 9, 10):
                (folder / f"{{epoch}}_pytorch_model.bin").touch()
            (folder / "best").mkdir(exist_ok=True)
            (folder / "results.json").write_text(json.dumps({{"args": {{}}}} if seed == "16" else run))
        """)
    )
    task = TASKS["CoLA"]
    recipe = [part for name, value in task.recipe.settings().items() for part in (f"--{name}", str(value))]
    args = parsed(task, ["--do_train", "--do_eval", "--task_name", "CoLA", *recipe])
    (tmp_path / "args.json").write_text(json.dumps(args))
    monkeypatch.setattr(plan, "script_command", lambda name: [sys.executable, str(script)])
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(sys, "argv", ["reproduce.py"])

    def run(*flags: str, table: str = "main") -> int:
        argv = [table, "--tasks", "cola", "--output_dir", str(tmp_path / "runs"), *flags]
        try:
            run_script(lambda: reproduce.main(argv))
        except SystemExit as end:
            return end.code
        return 0

    def runs() -> list[str]:
        """The folders of what has run since the last call, with the mark of a resumed run."""
        lines = (tmp_path / "ran").read_text().splitlines() if (tmp_path / "ran").exists() else []
        (tmp_path / "ran").write_text("")
        given = [line.partition("--output_dir ")[2].split() for line in lines]
        return [" ".join([str(Path(words[0]).relative_to(tmp_path / "runs")), *words[1:]]) for words in given]

    run.runs = runs
    return run


def test_a_grid_goes_on_past_a_failure_and_skips_what_is_finished(stand_in, tmp_path, capsys):
    assert stand_in("--methods", "naive,asa", "--seeds", "13,42") == 1
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  ")]
    log = tmp_path / "runs" / "CoLA" / "naive" / "seed13" / "log.txt"
    assert failed[0] == f"  CoLA/naive/seed13: failed with exit status 1 (script: error: no luck; see {log})"
    assert len(failed) == 2
    # Every method has its first seed before one has its second.
    order = ["CoLA/naive/seed13", "CoLA/asa/seed13", "CoLA/naive/seed42", "CoLA/asa/seed42"]
    assert stand_in.runs() == order
    assert stand_in("--methods", "naive,asa", "--seeds", "13,42,43", "--jobs", "2") == 1
    assert sorted(stand_in.runs()) == sorted([*order[:2], "CoLA/naive/seed43", "CoLA/asa/seed43"])

    folder = tmp_path / "runs" / "CoLA" / "asa" / "seed42"
    assert (folder / "log.txt").read_text() == "half way\n"  # without the bars
    assert sorted(path.name for path in folder.glob("*_pytorch_model.bin")) == ["10_pytorch_model.bin"]
    assert (folder / "best").exists()
    lack = "not begun, or failed before the first step"
    assert missing(tmp_path / "runs") == {"CoLA/asa/seed13": lack, "CoLA/naive/seed13": lack}
    text = report(tmp_path / "runs", read_results(tmp_path / "runs"), missing(tmp_path / "runs"))
    assert text.endswith(
        f"## Missing: 2 of the planned runs\n\n- CoLA/asa, {lack}: seed13\n- CoLA/naive, {lack}: seed13"
    )
    assert column(tmp_path / "runs", "Main table", "n") == ["2", "2"]


def test_a_run_that_was_cut_off_is_resumed(stand_in, tmp_path):
    assert stand_in("--methods", "asa", "--seeds", "14,", "--keep_checkpoints", "none") == 1
    assert missing(tmp_path / "runs") == {"CoLA/asa/seed14": "not finished, 1 epoch done"}
    assert stand_in("--methods", "asa", "--seeds", "14,", "--keep_checkpoints", "none") == 0
    assert stand_in.runs() == ["CoLA/asa/seed14", "CoLA/asa/seed14 --resume"]
    assert missing(tmp_path / "runs") == {}
    folder = tmp_path / "runs" / "CoLA" / "asa" / "seed14"
    assert sorted(path.name for path in folder.iterdir()) == ["log.txt", "results.json"]


def test_what_cannot_be_read_or_written_does_not_stop_the_others(stand_in, tmp_path, capsys):
    other = write(tmp_path / "runs" / "of" / "another" / "results.json", '{"accuracy": 1}')
    blocked = write(tmp_path / "runs" / "CoLA" / "naive" / "seed17")  # where a run is to have its folder
    assert stand_in("--methods", "naive", "--seeds", "17,15,16,42") == 1
    assert stand_in.runs() == ["CoLA/naive/seed15", "CoLA/naive/seed16", "CoLA/naive/seed42"]
    said = capsys.readouterr().err.splitlines()
    folder = tmp_path / "runs" / "CoLA" / "naive"
    assert [line for line in said if line.startswith("  ")] == [
        f"  CoLA/naive/seed17: not started ({blocked}: File exists)",
        f"  CoLA/naive/seed16: {folder / 'seed16' / 'results.json'}: not the results file of a run",
    ]
    warning = f"times are estimated roughly, as not all results can be read: {other}: not the results file of a run"
    assert said.count(warning) == 1
    assert f"CoLA/naive/seed15: {folder / 'seed15' / 'log.txt'}: No such file or directory" in said
    assert not (folder / "seed15" / "8_pytorch_model.bin").exists()


def test_robustness_asks_for_its_sets_and_weights_before_it_trains(stand_in, tmp_path, capsys):
    sentences = write(tmp_path / "hard.tsv", "a\tb")
    plain = ("--methods", "naive", "--seeds", "1")
    hard = (*plain, "--eval_file", f"CoLA={sentences}")
    assert stand_in(*plain, "--keep_checkpoints", "none") == 0
    stand_in.runs()
    assert stand_in(*hard, table="robustness") == 2
    folder = tmp_path / "runs" / "CoLA" / "naive" / "seed42"
    lacks = f"{folder}/0_pytorch_model.bin: CoLA/naive/seed42/on-hard needs it, and it is gone: move {folder} away"
    assert f"error: {lacks} to train it again" in capsys.readouterr().err
    places = ["--output_dir", str(tmp_path / "qqp"), "--data_dir", str(tmp_path)]
    said = message(reproduce.main, ["robustness", "--tasks", "QQP", *places])
    assert said.startswith(f"--data_dir {tmp_path}: it has no folder PAWS-QQP (in upper or lower case)")
    assert stand_in.runs() == []
    # Scores whose training is gone are of other weights.
    scores = write(folder / "on-hard" / "evaluation.json", json.dumps({"args": {"eval_file": str(sentences)}}))
    assert stand_in(*hard, "--dry_run", table="robustness") == 0
    assert "# 2 runs, 2 finished" in capsys.readouterr().out
    moved = (*plain, "--eval_file", f"CoLA={write(tmp_path / 'moved' / 'hard.tsv', 'a')}", "--dry_run")
    assert stand_in(*moved, table="robustness") == 0
    assert "# 2 runs, 2 finished" in capsys.readouterr().out
    scores.write_text(json.dumps({"args": {"eval_file": "hard.csv"}}))
    assert stand_in(*hard, "--dry_run", table="robustness") == 2
    assert f"{folder / 'on-hard'}: it has the scores of hard.csv: move it away" in capsys.readouterr().err
    (folder / "results.json").unlink()
    assert stand_in(*hard, "--dry_run", table="robustness") == 0
    assert "# 2 runs, 0 finished" in capsys.readouterr().out
    assert scores.exists()


def test_a_flag_that_an_evaluation_cannot_take_is_told_before_training(stand_in, tmp_path, capsys):
    sentences = write(tmp_path / "hard.tsv", "a\tb")
    hard = ("--methods", "naive", "--eval_file", f"CoLA={sentences}", "--", "--eval_on", "test")
    assert stand_in(*hard, table="robustness") == 2
    assert "--eval_file and --eval_on test exclude each other" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_evaluation_that_was_cut_off_is_made_again(stand_in, tmp_path, capsys):
    sentences = write(tmp_path / "hard.tsv", "a\tb")
    plain = ("--methods", "naive", "--seeds", "1")
    assert stand_in(*plain) == 0
    folder = tmp_path / "runs" / "CoLA" / "naive" / "seed42" / "on-hard"
    for again in (False, True):
        capsys.readouterr()
        assert stand_in(*plain, "--eval_file", f"CoLA={sentences}", "--dry_run", table="robustness") == 0
        command = capsys.readouterr().out.splitlines()[-2]
        assert shlex.quote(str(folder)) in command
        assert command.endswith(" --overwrite_output_dir") == again
        write(folder / "predictions" / "hard.tsv.parquet")  # what is written before the scores


def test_runs_side_by_side_share_the_machine(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert stand_in("--methods", "naive", "--seeds", "3", "--jobs", "3") == 0
    devices = [results_of(tmp_path / "runs" / "CoLA" / "naive" / f"seed{seed}")["device"] for seed in (42, 43, 44)]
    assert devices == [["2", "2"], ["5", "2"], ["2", "2"]]

    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert launch.shares(2) == [
        {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "2"},
        {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "5"},
    ]
    assert launch.shares(1) == [{}]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert launch.shares(2) == [{"OMP_NUM_THREADS": "4"}] * 2


def test_a_dry_run_prints_commands_that_the_scripts_take(stand_in, tmp_path, capsys):
    assert stand_in("--methods", "naive", "--seeds", "1", "--dry_run") == 0
    assert capsys.readouterr().err == ""  # no run yet: nothing is wrong
    stand_in("--methods", "naive", "--seeds", "1")
    capsys.readouterr()
    stand_in.runs()
    assert stand_in("--methods", "naive,asa", "--seeds", "2", "--dry_run", "--", "--logging_steps", "7") == 0
    recipe, *lines = capsys.readouterr().out.splitlines()
    assert recipe.startswith("# CoLA: learning_rate 2e-05 (ours), train_batch_size 32 (script default), ")
    assert lines[0] == "# CoLA/naive/seed42: finished"
    # What the finished run took, and two passes where it took one.
    assert lines[1] == "# CoLA/asa/seed42: 0:00:40 in all (from 1 finished run of this task)"
    assert lines[3] == "# CoLA/naive/seed43: 0:00:20 in all (as 1 finished run of this task and method)"
    assert lines[7] == "# 4 runs, 1 finished, 3 to do: about 0:01:40 with --jobs 1"
    for command, method, seed in ((lines[2], "asa", 42), (lines[4], "naive", 43), (lines[6], "asa", 43)):
        args = parsed(TASKS["CoLA"], shlex.split(command)[2:])
        assert (args["method"], args["seed"], args["logging_steps"]) == (method, seed, 7)
        assert args["output_dir"] == str(tmp_path / "runs" / "CoLA" / method / f"seed{seed}")
        assert args["load_model_path"] == "bert-base-uncased"
    assert stand_in.runs() == []
    assert not (tmp_path / "runs" / "CoLA" / "asa").exists()


def test_the_published_settings_of_each_task(tmp_path):
    """Every command of the main table, as its script reads it."""
    args, extra = reproduce.parse_arguments(["main", "--output_dir", str(tmp_path)])
    tasks = [TASKS[name] for name in args.tasks]
    runs = plan.plan_runs(tmp_path, tasks, reproduce.variants_of(args), args.seeds, extra)
    assert len(runs) == 2 * (5 * 3 + 2 * 5)
    seen = {}
    for run in runs:
        again = vars(arguments.of_script(Path(run.command[1]).stem, run.command[2:]))
        assert again == run.args
        names = (
            "learning_rate",
            "train_batch_size",
            "num_train_epochs",
            "warmup_proportion",
            "weight_decay",
            "eval_on",
        )
        seen[again["task_name"]] = tuple(again[name] for name in names)
    glue = (2e-5, 32, 3, 0.06, 0.01, "dev")
    assert seen == {
        **dict.fromkeys(("SST-2", "MNLI", "QNLI", "QQP", "STS-B"), glue),
        "WNUT-2017": (5e-5, 32, 5, 0.1, 0.0, "dev"),
        "DREAM": (2e-5, 16, 6, 0.06, 0.0, "test"),
    }


def test_smart_is_compared_as_in_its_paper_and_as_in_its_code(tmp_path):
    args, _ = reproduce.parse_arguments(["comparison", "--output_dir", "out"])
    variants = {variant.label: variant for variant in reproduce.variants_of(args)}
    assert list(variants) == [*METHODS, "smart-code"]
    args, _ = reproduce.parse_arguments(["comparison", "--output_dir", "out", "--methods", "smart-code,naive"])
    runs = plan.plan_runs(tmp_path, [TASKS["CoLA"]], reproduce.variants_of(args), 1, [])
    assert [(run.name, run.args["method"], run.args["smart_bregman"]) for run in runs] == [
        ("CoLA/smart-code/seed42", "smart", 0.0),
        ("CoLA/naive/seed42", "naive", 1.0),
    ]
    [paper] = plan.plan_runs(tmp_path, [TASKS["CoLA"]], [variants["smart"]], 1, [])
    assert [paper.args[f"smart_{name}"] for name in ("bregman", "momentum", "early_momentum")] == [1.0, 0.999, 0.99]


def test_rows_of_any_budget():
    words = "asa_budget-0.050,random_budget-0.05,asa_budget,asa_budget-0.10"  # the last two are one
    args, _ = reproduce.parse_arguments(["main", "--output_dir", "out", "--methods", words])
    runs = plan.plan_runs(Path("out"), [TASKS["CoLA"]], reproduce.variants_of(args), 1, [])
    names = ("method", "asa_budget", "random_mask_budget")
    assert len(runs) == 3
    assert {run.variant.label: tuple(run.args[name] for name in names) for run in runs} == {
        "asa_budget-0.05": ("asa_budget", 0.05, None),
        "random_budget-0.05": ("random_mask", 0.1, 0.05),
        "asa_budget": ("asa_budget", 0.1, None),
    }


def test_the_variants_of_the_ablations():
    args, _ = reproduce.parse_arguments(["ablation-tau", "--output_dir", "out"])
    variants = [(variant.label, *variant.flags) for variant in reproduce.variants_of(args)]
    assert variants == [
        ("asa-tau0", "--tau", "0"),
        *((f"asa-tau{tau}", "--tau", tau) for tau in ("0.001", "0.01", "0.1")),
        ("asa",),  # the run of the main table
        ("naive",),
    ]
    args, _ = reproduce.parse_arguments(["ablation-layers", "--output_dir", "out", "--layers", "0,2", "all"])
    variants = [(variant.label, *variant.flags) for variant in reproduce.variants_of(args)]
    assert variants == [("asa-layers0,2", "--asa_layers", "0,2"), ("asa",), ("naive",)]


@pytest.mark.parametrize(
    ("count", "parts"),
    [(12, ["0-3", "4-7", "8-11"]), (6, ["0-1", "2-3", "4-5"]), (8, ["0-2", "3-4", "5-7"]), (2, ["0-0", "1-1"])],
)
def test_by_default_thirds_of_the_layers(count, parts, encoder_folder):
    assert reproduce.thirds(count) == parts
    args, _ = reproduce.parse_arguments(["ablation-layers", "--output_dir", "out", "--encoder", encoder_folder])
    labels = [variant.label for variant in reproduce.variants_of(args)]
    assert labels == ["asa-layers0-0", "asa-layers1-1", "asa", "naive"]  # of two layers


def test_what_cannot_be_planned(stand_in, tmp_path, capsys):
    def said(*flags: str, table: str = "main") -> str:
        assert stand_in(*flags, table=table) == 2
        return capsys.readouterr().err.partition(": error: ")[2].strip()

    assert said("--tasks", "colla") == "--tasks colla: no such task; did you mean CoLA?"
    assert said("--tasks", "SWAG") == "--tasks SWAG: it has no recipe in data/tasks.py"
    assert said("--seeds", "x").startswith("argument --seeds: 'x' is not a whole number above 0")
    assert said("--seeds", "42").startswith("argument --seeds: 42 would be 42 seeds: for the seed 42 alone give '42,'")
    assert said("--taus", "0,x", table="ablation-tau").startswith("argument --taus: '0,x' is not a list of numbers")
    assert said("--", "--seed", "3") == "--seed after --: the grid sets it itself"
    assert said("--methods", "asa_budget-0.2", "--", "--asa_budget", "0.1") == (
        "--asa_budget after --: rows of the grid set it themselves"
    )
    assert said("--layers", "0-1", "0,1", table="ablation-layers") == (
        "asa-layers0-1 and asa-layers0,1 are one setting: leave one of them out"
    )
    assert "unrecognized arguments: --taux" in said("--", "--taux", "3")
    assert "invalid choice: 'assa'" in said("--methods", "assa")
    assert said("--keep_checkpoints", "none", table="robustness").startswith("--keep_checkpoints none: robustness")
    for given, why in (("SST-2=x", "SST-2 is not one of --tasks"), ("CoLA=x", "no such file; give TASK=FILE")):
        assert said("--eval_file", given, table="robustness") == f"--eval_file {given}: {why}"
    assert said(table="robustness") == "--tasks CoLA: nothing to score their models on: give --eval_file"
    assert not (tmp_path / "runs").exists()
    assert stand_in("--seeds", "1") == 0
    capsys.readouterr()
    folder = tmp_path / "runs" / "CoLA" / "naive" / "seed42"
    assert said("--max_train_steps", "9").startswith(
        f"{folder}: it has a run of another setting (max_train_steps None, not 9): give"
    )


SIGNALLED = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
def stop(number, frame):
    {stop}
signal.signal(signal.SIGTERM, stop)
for again in range(2):  # which says no more than the first
    os.kill(os.getppid(), signal.SIGINT)
while True:
    time.sleep(0.01)
"""


def interrupted_grid(folder: Path, stop: str, monkeypatch) -> Interrupted:
    """A grid of two runs, of which the first tells it to stop, and does `stop` when it is told so in turn."""
    script = folder / "child.py"
    script.write_text(SIGNALLED.format(stop=stop))
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(plan, "script_command", lambda name: [sys.executable, str(script)])
    variants = [plan.Variant("naive", "naive")]
    runs = plan.plan_runs(folder / "runs", [TASKS["CoLA"]], variants, 2, [])
    with pytest.raises(Interrupted) as stopped:
        launch.run_grid(runs, folder / "runs", 1, "last", "to go on: the same")
    assert not (folder / "runs" / "CoLA" / "naive" / "seed43").exists()
    return stopped.value


def test_a_signal_is_passed_on_and_the_grid_says_how_to_go_on(tmp_path, monkeypatch, foreground):
    stopped = interrupted_grid(tmp_path, '(folder / "saved").touch(); sys.exit(128 + number)', monkeypatch)
    assert (stopped.signal_number, str(stopped)) == (signal.SIGINT, "stopped; to go on: the same")
    assert (tmp_path / "runs" / "CoLA" / "naive" / "seed42" / "saved").exists()


@pytest.mark.parametrize("status", [0, 2])
def test_a_run_that_ends_while_the_grid_stops_is_tidied_up(status, tmp_path, monkeypatch, foreground):
    """Without a result, or with an error while it saves."""
    stopped = interrupted_grid(tmp_path, f"sys.exit({status})", monkeypatch)
    assert str(stopped) == "stopped, 1 failed; to go on: the same"


def test_a_signal_that_insists_kills_the_runs(monkeypatch):
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    child.stdout.readline()  # it is deaf now
    signals = StopSignals()
    signals.insist(signal.SIGINT)
    launch.stop([child], signals)
    assert child.returncode == -signal.SIGKILL


def test_one_grid_a_folder(tmp_path):
    with launch.only_grid(tmp_path):
        assert message(launch.only_grid(tmp_path).__enter__) == (
            f"--output_dir {tmp_path}: another grid is at work in it; --jobs runs several at a time"
        )


def test_a_real_grid(tmp_path, encoder_folder):
    """A run of a script, and the evaluation of its checkpoint on another set; then the report on them."""
    write(tmp_path / "data" / "PAWS-QQP" / "dev_and_test.tsv", "id\tsentence1\tsentence2\tlabel", *PAIRS)
    for split in ("train", "dev"):
        rows = [row.partition("\t")[2] for row in PAIRS]
        write(tmp_path / "data" / "QQP" / f"{split}.tsv", "question1\tquestion2\tis_duplicate", *rows)
    places = ["--data_dir", str(tmp_path / "data"), "--encoder", encoder_folder, "--output_dir", str(tmp_path / "runs")]
    flags = ["--tasks", "QQP", "--methods", "naive", "--seeds", "1", "--no_cuda", "--max_train_steps", "1"]
    reproduce.main(["robustness", *places, *flags, "--", "--max_seq_length", "16", "--eval_on", "dev"])
    folder = tmp_path / "runs" / "QQP" / "naive" / "seed42"
    trained = results_of(folder)
    assert (trained["args"]["max_seq_length"], trained["args"]["seed"]) == (16, 42)
    evaluation = json.loads((folder / "on-PAWS-QQP" / "evaluation.json").read_text())
    assert Path(evaluation["args"]["test_model_file"]) == folder / "0_pytorch_model.bin"
    (main,) = table(tmp_path / "runs", "Main table")
    assert (main["method"], main["n"]) == ("naive", "1")
    assert main["settings"] == "fp32, max_seq_length 16, max_train_steps 1"
    assert main["last epoch"] == f"{trained['best']['eval_score']:.2f}"
    (other,) = table(tmp_path / "runs", "Robustness: the last epoch's checkpoint on other sets")
    assert (other["trained on"], other["scored on"], other["metric"]) == ("QQP", "PAWS-QQP test, 4", "accuracy")
    assert other["last epoch"] == f"{evaluation['eval_score']:.2f}"


def test_every_setting_of_a_recipe_says_where_it_is_from():
    for task in filter(lambda task: task.recipe, TASKS.values()):
        defaults = vars(arguments.of_script(task.script, ["--do_train", "--task_name", task.name]))
        for name, value in task.recipe.settings().items():
            assert (value == defaults[name]) or task.recipe.source(name) != "script default", (task.name, name)
        assert {*task.recipe.command, *task.recipe.ours} <= task.recipe.settings().keys()
        assert all(task.recipe.settings()[name] != defaults[name] for name in task.recipe.ours)
    recipe = TASKS["SST-2"].recipe
    assert [recipe.source(name) for name in ("learning_rate", "weight_decay")] == ["release command", "script default"]
    assert TASKS["CoLA"].recipe.source("learning_rate") == "ours"
