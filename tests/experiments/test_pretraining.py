"""The grid of continued pre-training, with a stand-in for the scripts, and its table."""

import hashlib
import json
import os
import re
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from recorded_runs import column, write_run
from script_runs import message, results_of
from test_data import write

import reproduce
from data.features import Features
from data.predictions import write_predictions
from experiments import launch, plan, pretraining
from experiments.records import missing, parsed, read_results
from experiments.tables import MIXED, MIXED_NOTE, report
from utils import run_script


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """grid(flags) -> its exit status; `grid.runs()` what ran since the last call.

    A run leaves a results file and a folder best/; that of ASA fails as long as there is a file `fails`.
    """
    script = tmp_path / "stand_in.py"
    script.write_text(
        textwrap.dedent(f"""
            import hashlib, json, pathlib, sys
            sys.path.insert(0, {str(Path(reproduce.__file__).parent)!r})
            from training import arguments
            name, argv = sys.argv[1], sys.argv[2:]
            args = vars(arguments.of_script(name, argv))
            folder = pathlib.Path(args["output_dir"])
            if args["method"] == "asa" and pathlib.Path({str(tmp_path / "fails")!r}).exists():
                sys.exit("script: error: no luck")
            if not args["load_model_path"] == "tiny":
                assert pathlib.Path(args["load_model_path"]).is_dir()
            with open({str(tmp_path / "ran")!r}, "a") as file:
                file.write(str(folder) + "\\n")
            metrics = {{"accuracy": 50, "perplexity": 7.5}} if name == "run_mlm" else {{"matthews": 50}}
            epoch = {{"epoch": 0, "global_step": 10, "seconds": 20, "eval_score": 50, "eval_loss": 2}}
            epoch["metrics"] = metrics
            run = {{"args": args, "examples": {{"train": 8551, "eval": 9}}, "epochs": [epoch], "best": epoch}}
            (folder / "best").mkdir(exist_ok=True)
            weights = pathlib.Path(args["load_model_path"]) / "model.safetensors"
            run |= {{"encoder_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}} if weights.exists() else {{}}
            (folder / "best" / "model.safetensors").write_text(str([args["method"], args["max_train_steps"]]))
            (folder / "results.json").write_text(json.dumps(run | {{"finished": True}}))
        """)
    )
    write(tmp_path / "text.txt", "a film", "a plot")
    monkeypatch.setattr(plan, "script_command", lambda name: [sys.executable, str(script), name])
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(sys, "argv", ["reproduce.py"])
    text = str(tmp_path / "text.txt")
    places = ["--encoder", "tiny", "--output_dir", str(tmp_path / "runs"), "--train_file", text, "--dev_file", text]

    def run(*flags: str) -> int:
        given = ["pretraining", *places, "--steps", "10", "--tasks", "cola", "--seeds", "1", "--methods", "naive,asa"]
        try:
            run_script(lambda: reproduce.main([*given, *flags]))
        except SystemExit as end:
            return end.code
        return 0

    def runs() -> list[str]:
        lines = (tmp_path / "ran").read_text().splitlines() if (tmp_path / "ran").exists() else []
        (tmp_path / "ran").write_text("")
        return [Path(line).relative_to(tmp_path / "runs").as_posix() for line in lines]

    run.runs = runs
    return run


def test_methods_and_tasks_by_default(tmp_path, capsys):
    text = str(write(tmp_path / "text.txt", "a film", "a plot"))
    places = ["--encoder", "tiny", "--output_dir", str(tmp_path / "runs"), "--train_file", text, "--dev_file", text]
    reproduce.main(["pretraining", *places, "--steps", "10", "--seeds", "1", "--dry_run"])
    names = re.findall(r"^# (\S+/\S+): ", capsys.readouterr().out, re.M)
    methods = ["naive", "asa", "asa_budget"]
    tuned = ["naive", *(f"after-{method}" for method in methods)]
    assert sorted(names) == sorted(
        [f"pretraining/{method}" for method in methods]
        + [f"{task}/{row}/seed42" for task in ("CoLA", "MRPC", "RTE", "SST-2") for row in tuned]
    )


def test_what_is_trained_further_is_fine_tuned_after_it(grid, tmp_path, capsys):
    """A pre-training that fails takes its fine-tuning with it, and nothing else; the same command makes up for it."""
    (tmp_path / "fails").touch()
    assert grid("--", "--learning_rate", "3e-4") == 1
    assert grid.runs() == ["pretraining/naive", "CoLA/naive/seed42", "CoLA/after-naive/seed42"]
    failed = [line.strip() for line in capsys.readouterr().err.splitlines() if line.startswith("  ")]
    assert failed[0].startswith("pretraining/asa: failed with exit status 1 (script: error: no luck")
    assert failed[1:] == ["CoLA/after-asa/seed42: not possible, as the training failed"]
    (tmp_path / "fails").unlink()
    assert grid("--dry_run", "--", "--learning_rate", "3e-4") == 0
    [asa] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# pretraining/asa: ")]
    assert "(roughly, " in asa  # the time of the plain one says little
    assert grid("--", "--learning_rate", "3e-4") == 0
    assert grid.runs() == ["pretraining/asa", "CoLA/after-asa/seed42"]
    assert grid("--", "--learning_rate", "3e-4") == 0
    assert grid.runs() == []
    folder = tmp_path / "runs"
    args = {name: results_of(folder / name)["args"] for name in ("pretraining/asa", "CoLA/after-asa/seed42")}
    further, after = args.values()
    assert (further["max_train_steps"], further["learning_rate"], further["task_name"]) == (10, 3e-4, "text")
    assert (after["method"], after["learning_rate"], after["max_train_steps"]) == ("naive", 2e-5, None)
    assert after["load_model_path"] == (folder / "pretraining" / "asa" / "best").as_posix()
    assert grid() == 2  # without what stood after --
    assert (
        f"{folder / 'pretraining' / 'naive'}: it has a run of another setting (learning_rate 0.0003, not 0.0001)"
        in (capsys.readouterr().err)
    )


def test_what_was_fine_tuned_from_an_encoder_that_is_gone_is_refused(grid, tmp_path, capsys):
    """One trained again, by the grid or by hand, is not beside the scores of the one before."""
    assert grid() == 0
    folder = tmp_path / "runs"
    tuned = folder / "CoLA" / "after-naive" / "seed42"
    weights = folder / "pretraining" / "naive" / "best" / "model.safetensors"
    gone = f"{tuned}: it was fine-tuned from a {weights.parent} that is gone: move all folders after-naive away"
    before = weights.read_text()
    weights.write_text("others")
    os.utime(weights, ns=(1, 1))
    assert grid() == 2
    assert gone in capsys.readouterr().err
    weights.write_text(before)
    shutil.move(folder / "pretraining", tmp_path / "moved")
    grid.runs()
    assert grid("--steps", "5") == 2
    assert gone in capsys.readouterr().err
    assert grid.runs() == []
    for method in ("naive", "asa"):
        shutil.move(folder / "CoLA" / f"after-{method}", tmp_path / "moved" / method)
    assert grid("--steps", "5") == 0
    assert len(grid.runs()) == 4
    assert results_of(tuned)["encoder_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_grid_that_was_moved_is_finished(grid, tmp_path):
    assert grid() == 0
    assert len(grid.runs()) == 5
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    assert grid("--output_dir", str(tmp_path / "moved")) == 0
    assert grid.runs() == []


def test_seeds_from_before_and_after_a_move_are_one_row(tmp_path):
    write_text_run(tmp_path, "asa", 2.5, 12.182)
    for seed, place in ((1, "old"), (2, "new")):
        write_run(tmp_path, "naive", seed, [60.0], name=f"SST-2/naive/{seed}", load_model_path="tiny")
        flags = {"load_model_path": f"{place}/pretraining/asa/best"}
        write_run(tmp_path, "naive", seed, [61.0], name=f"SST-2/after-asa/{seed}", **flags)
    _, rows = pretraining.section(*pretraining.apart(read_results(tmp_path)))
    assert [(row["method"], row["seeds"]) for row in rows[1:]] == [("not at all", [1, 2]), ("asa", [1, 2])]


def test_seeds_of_two_encoders_are_not_one_row(tmp_path):
    for seed in (1, 2):
        flags = {"load_model_path": f"{seed}/pretraining/asa/best"}
        folder = write_run(tmp_path, "naive", seed, [61.0], name=f"SST-2/after-asa/{seed}", **flags)
        (folder / "results.json").write_text(json.dumps(results_of(folder) | {"encoder_sha256": str(seed)}))
    said = message(pretraining.section, *pretraining.apart(read_results(tmp_path)))
    assert said == "SST-2/after-asa/1 and SST-2/after-asa/2: not of the same encoder; move those of one encoder away"


def test_other_fine_tuning_from_a_pretrained_encoder_has_the_usual_tables(tmp_path):
    """With other methods, with several settings of one, or in folders of its own."""
    best = "further/pretraining/asa/best"
    for seed in (1, 2):
        for name, method, own in (("naive", "naive", {}), ("asa", "asa", {}), ("asa-tau0.1", "asa", {"tau": 0.1})):
            write_run(tmp_path, method, seed, [60.0], name=f"SST-2/{name}/{seed}", load_model_path=best, **own)
        write_run(tmp_path, "asa", seed, [60.0], name=f"SST-2/after-asa/{seed}", load_model_path=best, tau=0.2)
    further, others = pretraining.apart(read_results(tmp_path))
    assert (len(further), len(others)) == (0, 8)
    assert column(tmp_path, "Main table", "method", "n") == [("naive", "2"), ("asa", "2")]


def test_what_cannot_be_planned(grid, tmp_path, capsys):
    assert grid("--keep_checkpoints", "none") == 2
    assert (
        "--keep_checkpoints none: what is trained further is then fine-tuned, so keep that" in capsys.readouterr().err
    )
    assert grid("--methods", "smart") == 2
    assert "--method smart is not for masked language modelling" in capsys.readouterr().err
    assert grid("--dev_file", "nowhere.txt") == 2
    assert "--dev_file nowhere.txt: no such file" in capsys.readouterr().err
    for flag in ("--max_train_steps=3", "--load_model_path", "--train_file", "--dev_file"):
        assert grid("--", flag, "3") == 2
        assert f"{flag} after --: the grid sets it itself" in capsys.readouterr().err
    assert grid("--help") == 0
    assert "steps per fine-tuning run, instead of epochs" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "runs").exists()


def write_text_run(folder: Path, method: str, loss: float, perplexity: float, **changes) -> None:
    task = pretraining.TextTask(name="text", train=None, dev={}, test={})
    name = f"pretraining/{method}"
    args = parsed(task, ["--do_train", "--do_eval", "--train_file", "text.txt", "--dev_file", "held.txt"])
    args |= {"method": method, "task_name": "text", "load_model_path": "tiny", "max_train_steps": 40, **changes}
    metrics = {"accuracy": 41.0, "perplexity": perplexity}
    best = {"epoch": 0, "global_step": 40, "seconds": 120, "eval_score": 41.0, "eval_loss": loss, "metrics": metrics}
    run = {"args": args, "precision": "fp32", "examples": {"train": 99, "eval": 9}, "epochs": [best], "best": best}
    (folder / name).mkdir(parents=True)
    (folder / name / "results.json").write_text(json.dumps(run | {"finished": True}))


def test_rows_of_several_grids_can_be_told_apart(tmp_path):
    for grid, encoder, seeds in (("one", "tiny", (1, 2)), ("other", "small", (1,))):
        write_text_run(tmp_path / grid, "asa", 2.5, 12.182, load_model_path=encoder, mlm_probability=0.3)
        for seed in seeds:
            write_run(tmp_path / grid, "naive", seed, [60.0], name=f"SST-2/naive/{seed}", load_model_path=encoder)
            flags = {"load_model_path": f"{grid}/pretraining/asa/best", "warmup_proportion": 0.5 / seed}
            write_run(tmp_path / grid, "naive", seed, [61.0], name=f"SST-2/after-asa/{seed}", **flags)
    text, rows = pretraining.section(*pretraining.apart(read_results(tmp_path)))
    cells = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert [row[:4] for row in cells[2:4]] == [["one", "tiny", "text", "asa"], ["other", "small", "text", "asa"]]
    [said] = [line for line in text.splitlines() if line.startswith("All rows: ")]
    assert said.startswith("All rows: settings fp32, ")
    assert "mlm_probability 0.3" in said
    assert [(row[0], row[1], row[5], row[6]) for row in cells[6:]] == [
        ("one", "tiny", "asa", "bf16, warmup_proportion 0.5"),
        ("one", "tiny", "asa", "bf16, warmup_proportion 0.25"),
        ("other", "small", "asa", "bf16, warmup_proportion 0.5"),
    ]
    assert [(row["grid"], row["encoder"]) for row in rows[:2]] == [("one", "tiny"), ("other", "small")]


def test_the_rules_of_the_other_tables_hold(tmp_path, capsys):
    """Times can be left out, versions of the code are marked, and intervals have the evaluated rows too."""
    write_text_run(tmp_path, "asa", 2.5, 12.182)
    rows = Features({"input_ids": [[1]] * 50}, labels=[number % 2 for number in range(50)])
    for seed in (42, 43, 44):
        for arm, path, wrong in (("naive", "tiny", 5 + seed % 2), ("after-asa", "a/pretraining/asa/best", 8)):
            name = f"SST-2/{arm}/seed{seed}"
            folder = write_run(tmp_path, "naive", seed, [100 - 2.0 * wrong], name=name, load_model_path=path)
            found = [1 - number % 2 if number < wrong else number % 2 for number in range(50)]
            write_predictions(folder / "predictions" / "SST-2.parquet", rows, [np.eye(2)[label] for label in found])
            record = results_of(folder) | {"versions": {"code": f"of {seed}"}}
            (folder / "results.json").write_text(json.dumps(record))
    reproduce.main(["report", str(tmp_path), "--output", str(tmp_path / "report"), "--no_times"])
    text = capsys.readouterr().out.partition(f"## {pretraining.TITLE}")[2]
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert (lines[0][-1], lines[2][-1]) == ("accuracy", "41.00")
    assert lines[6][4] == f"3{MIXED}"
    assert MIXED_NOTE in text
    [row] = [row for row in json.loads((tmp_path / "report" / "report.json").read_text())["rows"] if "n" in row][-1:]
    low, high = row["untrained_rows_low"], row["untrained_rows_high"]
    assert low < row["untrained_low"] < row["untrained_high"] < high
    found = f", detectable {row['untrained_rows_detectable']:.2f}" * (low <= 0 <= high)
    assert f", rows too [{low:+.2f}, {high:+.2f}]{found}, 3 pairs" in lines[6][6]


def test_the_table_of_the_documentation_is_that_of_the_recorded_runs(tmp_path, capsys):
    root = Path(reproduce.__file__).parent
    text = (root / "docs" / "pretraining.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (\S+) \| (.+ ± .+) \| (.+ ± .+) \| (.+ ± .+) \| (.+) \|$", text, re.M)
    reproduce.main(["report", str(root / "results" / "further"), "--output", str(tmp_path)])
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    found = {(row["task"], row["method"]): row for row in rows if row["table"] == pretraining.FOLDER and "n" in row}
    for task, *written in lines:
        original, plain, asa = (found[task, arm] for arm in (pretraining.AS_IT_WAS, "naive", "asa"))
        scores = [f"{row['last_mean']:.1f} ± {row['last_deviation']:.1f}" for row in (original, plain, asa)]
        low, high = asa["plain_rows_low"], asa["plain_rows_high"]
        assert written == [*scores, f"{asa['plain_difference']:+.1f} [{low:+.1f}, {high:+.1f}]"], task
    unfinished = {task for (task, _), row in found.items() if row["n"] < 3}
    assert {task for task, *_ in lines} == {task for task, _ in found} - unfinished


def write_evaluation(run: Path, name: str, task: str) -> None:
    args = {"task_name": task, "eval_on": "dev", "dev_file": ["more.txt"], "test_model_file": "0_pytorch_model.bin"}
    args |= {"test_model_file": "1_pytorch_model.bin"} if task == "SST-2" else {}
    scored = {"args": args, "examples": {"eval": 5}, "eval_score": 40.0, "metrics": {"accuracy": 40.0}}
    (run / name).mkdir()
    (run / name / "evaluation.json").write_text(json.dumps(scored))


def test_the_table_puts_each_beside_the_encoder_as_it_was(tmp_path):
    write_text_run(tmp_path, "asa", 2.5, 12.182)
    write_text_run(tmp_path, "naive", 2.0, 7.389)
    scores = {"naive": (60.0, 62.0), "after-naive": (61.0, 64.0), "after-asa": (60.0, 63.0)}
    for arm, values in scores.items():
        path = "tiny" if arm == "naive" else f"elsewhere/pretraining/{arm.removeprefix('after-')}/best"
        for seed, score in zip((1, 2), values, strict=True):
            write_run(tmp_path, "naive", seed, [50.0, score], name=f"SST-2/{arm}/{seed}", load_model_path=path)
    further, others = pretraining.apart(read_results(tmp_path))
    assert (len(further), len(others)) == (6, 2)
    text, rows = pretraining.section(further, others)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    settings = "fp32, max_train_steps 40, train_file text.txt, dev_file held.txt"
    said = [line for line in text.splitlines() if line.startswith("All rows: ")]
    assert said == [f"All rows: encoder tiny; settings {settings}.", "All rows: encoder tiny; settings bf16."]
    assert tables[2] == "| text | naive | 40 | 2.0000 | 7.389 | 41.00 | 2.0 |"
    assert tables[3] == "| text | asa | 40 | 2.5000 | 12.182 | 41.00 | 2.0 |"
    cells = [line[2:-2].split(" | ") for line in tables[6:]]
    assert [row[3:6] for row in cells] == [
        ["not at all", "2", "61.00 ± 1.41"],
        ["naive", "2", "62.50 ± 2.12"],
        ["asa", "2", "61.50 ± 2.12"],
    ]
    assert [row[6].partition(" [")[0] for row in cells] == ["", "+1.50", "+0.50"]
    assert [row[7].partition(",")[0] for row in cells] == ["", "", "-1.00"]
    whole = report(tmp_path, others, missing(tmp_path), tmp_path / "report", more=(text, rows))
    assert whole.index("## Main table") < whole.index("## Continued pre-training")
    found = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    assert [row["method"] for row in found if row["table"] == "pretraining"] == [
        "naive",
        "asa",
        "not at all",
        "naive",
        "asa",
    ]
    assert pretraining.section([], others) == ("", [])
    write_evaluation(tmp_path / "pretraining" / "asa", "on-more", "text")
    write_evaluation(tmp_path / "SST-2" / "after-asa" / "1", "on-more", "SST-2")
    write_evaluation(tmp_path / "SST-2" / "naive" / "1", "on-more", "SST-2")
    further, others = pretraining.apart(read_results(tmp_path))
    assert pretraining.section(further, others) == (text, rows)
    assert [result.name for result in others if result.best is None] == [
        "SST-2/after-asa/1/on-more",
        "SST-2/naive/1/on-more",
    ]
    assert message(report, tmp_path, [], {}).endswith("no results.json of an evaluated run in it or below")
