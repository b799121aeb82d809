"""Grids of runs and the tables made of them: by value, with a stand-in for the scripts, and once with a script."""

import importlib
import json
import os
import re
import shlex
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from script_runs import message, results_of
from test_data import write

import grid
import reproduce
from data.published import published
from data.tasks import TASKS
from records import different_settings, missing, parsed, read_results, settings
from tables import compare, grouped, over_seeds, report
from utils import Interrupted, run_script

PAIRS = ("1\ta film\tthe film\t1", "2\ta plot\tthe story\t0", "3\ta score\tthe score\t1", "4\tdull\tfunny\t0")


def write_run(folder: Path, method: str, seed: int, scores: list[float], minutes: float = 1.0, **changes) -> Path:
    """A finished run as the scripts leave it, of ten steps an epoch."""
    task = TASKS[changes.get("task_name", "SST-2")]
    recipe = [f"--{name}={value}" for name, value in task.recipe.settings().items()]
    name = changes.pop("name", f"{method}{seed}")
    finished = changes.pop("finished", True)
    args = parsed(task, ["--do_train", "--do_eval", "--task_name", task.name, "--method", method, *recipe])
    args |= {"seed": seed, "output_dir": name, "bf16": True, **changes}
    epochs = [
        {"epoch": place, "eval_score": score, "metrics": {"accuracy": score}, "global_step": 10 * place + 10}
        | {"seconds": 60 * minutes}
        for place, score in enumerate(scores)
    ]
    best = max(epochs, key=lambda epoch: epoch["eval_score"], default=None)
    run = {"args": args, "precision": "bf16", "examples": {"train": 100, "eval": 1872}, "epochs": epochs, "best": best}
    (folder / name).mkdir(parents=True)
    (folder / name / "results.json").write_text(json.dumps(run | ({"finished": True} if finished else {})))
    return folder / name


def table(folder: Path, title: str) -> list[dict[str, str]]:
    """The rows of a table of the report: column -> cell, with what is said of all rows above the table."""
    text = report(folder, read_results(folder), missing(folder))
    section = text.partition(f"## {title}\n\n")[2].partition("\n## ")[0]
    said = re.search(r"^All rows: (.*)\.$", section, re.M)
    alike = dict(part.split(" ", 1) for part in said[1].split("; ")) if said else {}
    head, _, *rows = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [alike | dict(zip(head, row, strict=True)) for row in rows]


def column(folder: Path, title: str, *names: str) -> list:
    """The cells of a column; of several columns, a tuple for each row."""
    found = [tuple(row[name] for name in names) for row in table(folder, title)]
    return [cell for (cell,) in found] if len(names) == 1 else found


def test_statistics_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt 3, t = 2 sqrt 3 with 2 degrees of freedom."""
    found = compare({1: 91, 2: 92, 3: 93, 9: 0}, {1: 90, 2: 90, 3: 90, 4: 100})
    assert found["pairs"] == 3
    assert found["difference"] == pytest.approx(2)
    quantile = 4.302653  # of Student's t with 2 degrees of freedom, at 0.975
    assert found["low"] == pytest.approx(2 - quantile / 3**0.5, abs=1e-5)
    assert found["high"] == pytest.approx(2 + quantile / 3**0.5, abs=1e-5)
    t = 2 * 3**0.5  # for 2 degrees of freedom the distribution function is 1/2 + t / (2 sqrt(t^2 + 2))
    assert found["p"] == pytest.approx(1 - t / (t**2 + 2) ** 0.5)
    assert found["p_flip"] == 2 / 8  # all signs as they are, or all the other way
    # Sums of 3, -1 and 1 with signs: 3 is observed; 5, 3, 3 and 1, each with its opposite.
    assert compare({1: 3, 2: -1, 3: 1}, {1: 0, 2: 0, 3: 0})["p_flip"] == 6 / 8

    nothing = {"low": None, "high": None, "p": None}
    assert compare({1: 5.0}, {1: 4.0}) == {"pairs": 1, "difference": 1.0, "p_flip": None, **nothing}
    assert compare({1: 5.0}, {2: 4.0}) == {"pairs": 0, "difference": None, "p_flip": None, **nothing}
    assert compare({1: 5.0, 2: 6.0}, {1: 4.0, 2: 5.0}) == {"pairs": 2, "difference": 1.0, "p_flip": 0.5, **nothing}
    assert over_seeds({1: 92.0, 2: 91.0}) == {"mean": 91.5, "deviation": pytest.approx(0.5**0.5)}
    assert over_seeds({1: 92.0}) == {"mean": 92.0, "deviation": None}


def test_a_row_for_each_setting_over_its_seeds(tmp_path):
    write_run(tmp_path, "asa", 1, [92.0, 90.0], minutes=3)
    write_run(tmp_path, "asa", 2, [91.0, 94.0], minutes=4)
    write_run(tmp_path, "asa", 3, [91.0, 98.0], finished=False)  # does not count
    write_run(tmp_path, "naive", 1, [90.0, 91.5], tau=0.1)  # which naive does not read
    write_run(tmp_path, "naive", 3, [90.0, 91.5], attn_implementation="eager", no_cuda=True)
    write_run(tmp_path, "naive", 1, [80.0, 81.5], name="other", learning_rate=1e-3)  # another setting, not another seed
    same = {"encoder": "bert-base-uncased", "task": "SST-2", "scored on": "dev, 1,872", "metric": "accuracy"}
    server = "(GLUE server, Devlin et al., NAACL 2019)"
    difference = "-1.50, 1 pair", "93.00 ± 1.41", "+0.50, 1 pair", "7.0", "94.1 (GLUE server, Wu et al., AAAI 2023)"
    rows = table(tmp_path, "Main table")
    assert all(row.items() >= same.items() for row in rows)
    assert [tuple(value for name, value in row.items() if name not in same) for row in rows] == [
        ("naive", "bf16", "2", "91.50 ± 0.00", "", "91.50 ± 0.00", "", "2.0", f"93.5 {server}"),
        ("asa", "bf16", "2", "92.00 ± 2.83", *difference),
        ("naive", "bf16, learning_rate 0.001", "1", "81.50", "", "81.50", "", "2.0", f"93.5 {server}"),
    ]
    write_run(tmp_path, "asa", 1, [92.0], name="again", tau=0.5)
    assert message(grouped, read_results(tmp_path)) == "two runs of one setting have the seed 1: again and asa1"


def test_the_difference_has_an_interval_and_tests(tmp_path):
    for seed, gain in enumerate((1, 2, 3)):
        write_run(tmp_path, "naive", seed, [90.0])
        write_run(tmp_path, "asa", seed, [90.0 + gain])
    said = column(tmp_path, "Main table", "to naive, last epoch")
    assert said == ["", "+2.00 [-0.48, +4.48], p 0.074, flips 0.250, 3 pairs"]


def test_what_all_rows_share_is_said_once(tmp_path):
    def first_lines() -> list[str]:
        text = report(tmp_path, read_results(tmp_path), {})
        return text.partition("## Main table\n\n")[2].splitlines()[:3]

    write_run(tmp_path, "naive", 1, [90.0])
    write_run(tmp_path, "asa", 1, [90.0])
    said, _, head = first_lines()
    assert said == "All rows: encoder bert-base-uncased; settings bf16."
    assert head.startswith("| task | scored on | metric | method | n |")
    write_run(tmp_path, "asa", 1, [90.0], learning_rate=1e-3, name="other")
    said, _, head = first_lines()
    assert said == "All rows: encoder bert-base-uncased."
    assert head.startswith("| task | scored on | metric | method | settings | n |")


def test_published_figures_stand_beside_their_own_encoder_alone(tmp_path):
    assert published("roberta-base", "asa", "DREAM") == "69.2 (test, Wu et al., AAAI 2023)"
    assert published("models/bert-base-uncased/", "asa", "WNUT-2017") == "49.8 (Wu et al., AAAI 2023)"
    assert published("FacebookAI/roberta-base", "naive", "SST-2") == published("bert-base-cased", "asa", "SST-2") == ""
    write_run(tmp_path, "asa", 1, [90.0], load_model_path="all-MiniLM-L6-v2")
    assert "published" not in table(tmp_path, "Main table")[0]


def test_what_varies_decides_on_the_table(tmp_path):
    write_run(tmp_path, "naive", 1, [80.0], task_name="CoLA")
    for tau in (0.5, 0.1):
        write_run(tmp_path, "asa", 1, [80.0 + tau], task_name="CoLA", tau=tau, name=f"tau{tau}")
    write_run(tmp_path, "asa", 1, [83.0], task_name="CoLA", asa_layers=[0, 1], name="layers")
    write_run(tmp_path, "rdrop", 1, [84.0], task_name="CoLA", minutes=3)
    assert column(tmp_path, "Main table", "method", "last epoch") == [("naive", "80.00"), ("asa", "80.50")]
    assert column(tmp_path, "Ablation: weight of the penalty", "method", "to naive, last epoch") == [
        ("naive", ""),
        ("asa, tau 0.1", "+0.10, 1 pair"),
        ("asa", "+0.50, 1 pair"),
    ]
    layers = column(tmp_path, "Ablation: layers with an adversary", "method")
    assert layers == ["naive", "asa, asa_layers 0 1", "asa"]
    costs = column(tmp_path, "Comparison of methods", "method", "cost")
    assert costs == [("naive", "1.00"), ("asa", "1.00"), ("rdrop", "3.00")]


def test_a_setting_that_is_not_as_published_is_shown(tmp_path):
    write_run(tmp_path, "asa", 1, [80.0], tau=0.1, protocol="release", pad_to_max_length=True, group_by_length=False)
    write_run(tmp_path, "asa", 2, [80.0], tau=0.5, max_train_steps=9, num_train_epochs=7)
    assert column(tmp_path, "Main table", "method", "settings", "n") == [
        ("asa, tau 0.1", "bf16, protocol release", "1"),  # no other tau: not an ablation
        ("asa", "bf16, max_train_steps 9", "1"),
    ]


def test_the_same_table_as_csv_and_json(tmp_path, capsys):
    write_run(tmp_path / "runs", "naive", 1, [90.0])
    write_run(tmp_path / "runs", "asa", 1, [91.0, 90.5])
    reproduce.main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "out")])
    assert capsys.readouterr().out == (tmp_path / "out" / "report.md").read_text()
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    asa = rows[1]
    assert (asa["last_mean"], asa["best_mean"], asa["last_difference"]) == (90.5, 91.0, 0.5)
    assert (asa["seeds"], asa["runs"], asa["last_pairs"], asa["last_p"]) == ([1], ["asa1"], 1, None)
    head, first, second = (tmp_path / "out" / "report.csv").read_text().splitlines()
    assert len(head.split(",")) == len(asa)
    assert ",90.5," in second
    assert first.startswith("main,bert-base-uncased,SST-2,dev,1872,accuracy,naive,")


def test_older_results_count_by_their_last_epoch(tmp_path):
    folder = write_run(tmp_path, "naive", 1, [90.0, 91.0, 92.0])
    run = results_of(folder)
    for name in ("resume", "asa_layers", "token_cache_dir", "save_steps"):
        del run["args"][name]
    del run["finished"], run["precision"]
    (folder / "results.json").write_text(json.dumps(run))
    write_run(tmp_path, "naive", 2, [90.0, 91.0, 94.0])
    assert column(tmp_path, "Main table", "last epoch") == ["93.00 ± 1.41"]
    (folder / "results.json").write_text(json.dumps(run | {"epochs": run["epochs"][:2]}))
    assert column(tmp_path, "Main table", "last epoch") == ["94.00"]


def test_what_is_no_results_file(tmp_path):
    assert message(report, tmp_path, [], {}).startswith(f"{tmp_path}: no results.json of an evaluated run")
    (tmp_path / "grid.json").write_text("{}")
    assert message(missing, tmp_path) == f"{tmp_path / 'grid.json'}: not the plan of a grid"
    (tmp_path / "results.json").write_text("[]")
    assert message(read_results, tmp_path) == f"{tmp_path / 'results.json'}: not the results file of a run"


def test_another_setting_is_named():
    args = parsed(TASKS["CoLA"], ["--do_train", "--task_name", "CoLA", "--method", "naive"])
    assert different_settings({"args": args}, args | {"tau": 3, "num_workers": 4, "data_dir": "elsewhere"}) == ""
    assert different_settings({"args": args}, args | {"max_grad_norm": 1.0, "bf16": True}) == (
        "bf16 False, not True, max_grad_norm 0.0, not 1.0"
    )
    training, own = settings(args | {"method": "random_mask"})
    assert own == {"random_mask_keep_rate": 0.9, "asa_layers": None}
    assert {"protocol", "learning_rate", "load_model_path", "eval_on"} <= training.keys()
    assert not {"tau", "seed", "output_dir", "rdrop_alpha", "resume"} & training.keys()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A grid of CoLA whose runs take no time: `stand_in(arguments)` is its exit status, `stand_in.runs` what ran.

    A run writes a results file; with seed 13 it fails instead, and with seed 14 it is cut off, until it is resumed.
    """
    script = tmp_path / "stand_in.py"
    script.write_text(
        textwrap.dedent(f"""
            import importlib, json, pathlib, sys
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
            run["finished"] = seed != "14" or "--resume" in argv
            folder = pathlib.Path(given["output_dir"])
            for epoch in (8, 9, 10):
                (folder / f"{{epoch}}_pytorch_model.bin").touch()
            (folder / "best").mkdir(exist_ok=True)
            (folder / "results.json").write_text(json.dumps(run))
        """)
    )
    task = TASKS["CoLA"]
    recipe = [part for name, value in task.recipe.settings().items() for part in (f"--{name}", str(value))]
    args = parsed(task, ["--do_train", "--do_eval", "--task_name", "CoLA", *recipe])
    (tmp_path / "args.json").write_text(json.dumps(args))
    monkeypatch.setattr(grid, "script_command", lambda name: [sys.executable, str(script)])
    monkeypatch.setattr(grid, "POLL_SECONDS", 0.01)
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
    assert missing(tmp_path / "runs") == {"CoLA/asa/seed14": "not finished, 1 epochs done"}
    assert stand_in("--methods", "asa", "--seeds", "14,", "--keep_checkpoints", "none") == 0
    assert stand_in.runs() == ["CoLA/asa/seed14", "CoLA/asa/seed14 --resume"]
    assert missing(tmp_path / "runs") == {}
    folder = tmp_path / "runs" / "CoLA" / "asa" / "seed14"
    assert sorted(path.name for path in folder.iterdir()) == ["log.txt", "results.json"]


def test_a_dry_run_prints_commands_that_the_scripts_take(stand_in, tmp_path, capsys):
    stand_in("--methods", "naive", "--seeds", "1")
    capsys.readouterr()
    stand_in.runs()
    assert stand_in("--methods", "naive,asa", "--seeds", "2", "--dry_run", "--", "--logging_steps", "7") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "# CoLA/naive/seed42: finished"
    # 8,551 examples: 804 steps of 2 seconds, as the finished run took; or at 50 examples a second and pass.
    assert lines[1].startswith("# CoLA/asa/seed42: 0:17:09 in all (roughly, 50 examples a second and pass on a pro")
    assert lines[3] == "# CoLA/naive/seed43: 0:26:48 in all (as 1 finished run of this task and method)"
    assert lines[7] == "# 4 runs, 1 finished, 3 to do: about 1:01:06 with --jobs 1"
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
    runs = grid.plan_runs(tmp_path, tasks, reproduce.variants_of(args), args.seeds, extra)
    assert len(runs) == 2 * (5 * 3 + 2 * 5)
    seen = {}
    for run in runs:
        module = importlib.import_module(Path(run.command[1]).stem)
        again = vars(module.parse_arguments(run.command[2:]))
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
    assert said("--tasks", "SWAG") == "--tasks SWAG: it has no published settings in data/tasks.py"
    assert said("--seeds", "x").startswith("argument --seeds: 'x' is not a whole number above 0")
    assert said("--taus", "0,x", table="ablation-tau").startswith("argument --taus: '0,x' is not a list of numbers")
    assert said("--", "--seed", "3") == "--seed after --: it is the grid that gives it"
    assert "unrecognized arguments: --taux" in said("--", "--taux", "3")
    assert "invalid choice: 'assa'" in said("--methods", "assa")
    assert said("--keep_checkpoints", "none", table="robustness").startswith("--keep_checkpoints none: robustness")
    assert said("--eval_file", "SST-2=nowhere", table="robustness").startswith("--eval_file SST-2=nowhere: give TASK=")
    assert not (tmp_path / "runs").exists()
    assert stand_in("--seeds", "1") == 0
    capsys.readouterr()
    folder = tmp_path / "runs" / "CoLA" / "naive" / "seed42"
    assert said("--max_train_steps", "9").startswith(
        f"{folder}: it has a run of another setting (max_train_steps None, not 9): give"
    )


def test_a_signal_is_passed_on_and_the_grid_says_how_to_go_on(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    # It tells the grid to stop once it is ready for what then comes.
    child.write_text(
        textwrap.dedent(f"""
            import os, pathlib, signal, sys, time
            def stop(number, frame):
                pathlib.Path({str(tmp_path / "saved")!r}).write_text(str(number))
                sys.exit(128 + number)
            signal.signal(signal.SIGTERM, stop)
            os.kill({os.getpid()}, signal.SIGINT)
            while True:
                time.sleep(0.01)
        """)
    )
    monkeypatch.setattr(grid, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(grid, "script_command", lambda name: [sys.executable, str(child)])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    variants = [grid.Variant("naive", "naive")]
    runs = grid.plan_runs(tmp_path / "runs", [TASKS["CoLA"]], variants, 2, [])
    with pytest.raises(Interrupted, match="stopped; to go on: the same") as stopped:
        grid.run_grid(runs, tmp_path / "runs", 1, "all", "to go on: the same")
    signal.signal(signal.SIGINT, before)
    assert stopped.value.signal_number == signal.SIGINT
    assert (tmp_path / "saved").read_text() == str(signal.SIGTERM.value)
    assert not (tmp_path / "runs" / "CoLA" / "naive" / "seed43").exists()


def test_one_grid_a_folder(tmp_path):
    with grid.only_grid(tmp_path):
        assert message(grid.only_grid(tmp_path).__enter__) == (
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
    reproduce.main(["robustness", *places, *flags, "--", "--max_seq_length", "16"])
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


@pytest.mark.parametrize("folder", ["minilm", "single"])
def test_the_tables_of_the_readme_are_those_of_the_program(folder, capsys):
    root = Path(reproduce.__file__).parent
    reproduce.main(["report", str(root / "results" / folder), "--no_times"])
    readme = (root / "README.md").read_text(encoding="utf-8")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) > 4
    assert [row for row in rows if row not in readme] == []
