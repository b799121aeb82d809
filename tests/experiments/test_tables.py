"""The tables that are made of runs, by value; the runs are written for the tests."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from recorded_runs import column, table, write_run
from script_runs import message, results_of

import reproduce
from data.features import Features
from data.predictions import write_predictions
from data.published import published
from data.tasks import TASKS
from experiments.groups import grouped
from experiments.paired import compare, detectable, over_seeds
from experiments.records import different_settings, missing, parsed, read_results, settings
from experiments.tables import MIXED, MIXED_NOTE, NOTES, report
from training import arguments


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
    # Right answers of 9,815 rows: sums of five, four of them 6 and one 0, as far from 0 as -12; those of six, as -11.
    for right, others, p in (
        ([5031, 5017, 4870, 5002, 4911], [5025, 5023, 4876, 5002, 4917], 10 / 16),
        ([5031, 5017, 4870, 5002, 4911, 7], [5034, 5025, 4873, 4999, 4911, 7], 8 / 16),
    ):
        scores, reference = ({seed: 100 * (n / 9815) for seed, n in enumerate(each)} for each in (right, others))
        assert compare(scores, reference)["p_flip"] == p

    nothing = {"low": None, "high": None, "p": None, "detectable": None}
    assert compare({1: 5.0}, {1: 4.0}) == {"pairs": 1, "difference": 1.0, "p_flip": None, **nothing}
    assert compare({1: 5.0}, {2: 4.0}) == {"pairs": 0, "difference": None, "p_flip": None, **nothing}
    assert compare({1: 5.0, 2: 6.0}, {1: 4.0, 2: 5.0}) == {"pairs": 2, "difference": 1.0, "p_flip": 0.5, **nothing}
    assert over_seeds({1: 92.0, 2: 91.0}) == {"mean": 91.5, "deviation": pytest.approx(0.5**0.5)}
    assert over_seeds({1: 92.0}) == {"mean": 92.0, "deviation": None}


def test_the_detectable_difference():
    # Cohen (1988), table 2.3.5: with power .80 at .05 (two-sided), d = 0.5 takes 34 pairs; d = 0.2 takes 198 or 199.
    assert detectable(1.0, 34) == pytest.approx(0.5, abs=0.01)
    assert detectable(1.0, 199) == pytest.approx(0.2, abs=0.001)
    assert detectable(3.0, 34) == pytest.approx(3 * detectable(1.0, 34))
    # By drawing: of three pairs, as often as it should be.
    draws = np.random.default_rng(0).normal(detectable(1.0, 3), 1.0, (20_000, 3))
    found = np.abs(draws.mean(1)) / (draws.std(1, ddof=1) / 3**0.5) > 4.302653
    assert found.mean() == pytest.approx(0.8, abs=0.01)


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
    said = column(tmp_path, "Main table", "difference from fine-tuning, last epoch")
    assert said == ["", "+2.00 [-0.48, +4.48], p 0.074, detectable 3.26, flips 0.250, 3 pairs"]


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
    write_run(tmp_path, "asa", 1, [82.0], task_name="CoLA", asa_divergence_weight=0.04, tau=0.1, name="weight")
    assert column(tmp_path, "Main table", "method")[1:] == ["asa, tau 0.1, asa_divergence_weight 0.04", "asa"]
    write_run(tmp_path, "rdrop", 1, [84.0], task_name="CoLA", minutes=3)
    write_run(tmp_path, "rdrop", 1, [85.0], task_name="CoLA", minutes=3, rdrop_alpha=4.0, name="alpha")
    assert column(tmp_path, "Main table", "method", "last epoch") == [("naive", "80.00"), ("asa", "80.50")]
    assert column(tmp_path, "Ablation: weight of the penalty", "method", "difference from fine-tuning, last epoch") == [
        ("naive", ""),
        ("asa, tau 0.1", "+0.10, 1 pair"),
        ("asa", "+0.50, 1 pair"),
    ]
    layers = column(tmp_path, "Ablation: layers with an adversary", "method")
    assert layers == ["naive", "asa, asa_layers 0 1", "asa"]
    costs = column(tmp_path, "Comparison of methods", "method", "cost")
    assert costs == [
        ("naive", "1.00"),
        ("asa, tau 0.1, asa_divergence_weight 0.04", "1.00"),
        ("asa", "1.00"),
        ("rdrop", "3.00"),
        ("rdrop, rdrop_alpha 4", "3.00"),
    ]


def test_what_has_to_be_known_of_a_baseline_is_said_below_it(tmp_path):
    write_run(tmp_path, "naive", 1, [80.0], task_name="CoLA")
    write_run(tmp_path, "rdrop", 1, [81.0], task_name="CoLA")
    write_run(tmp_path, "smart", 1, [82.0], task_name="CoLA")
    write_run(tmp_path, "smart", 1, [83.0], task_name="CoLA", smart_bregman=0.0, name="code")
    assert column(tmp_path, "Comparison of methods", "method", "last epoch")[2:] == [
        ("smart, smart_bregman 0", "83.00"),
        ("smart", "82.00"),
    ]
    text = report(tmp_path, read_results(tmp_path), {}, times=False)
    assert text.endswith(f"\n\n*smart*: {NOTES['smart']}.")
    assert "with `smart_bregman` 0 as in the authors' code" in text
    assert "*r3f*" not in text
    write_run(tmp_path, "r3f", 1, [84.0], task_name="CoLA")
    assert report(tmp_path, read_results(tmp_path), {}, times=False).endswith(f"*r3f*: {NOTES['r3f']}.")


def test_what_older_runs_did_is_not_today_s_default(tmp_path):
    """FreeLB's noise was not scaled, and SMART's average had one momentum."""
    write_run(tmp_path, "naive", 1, [80.0], task_name="CoLA")
    for method, later in (("freelb", "freelb_embedding_norm"), ("smart", "smart_early_momentum")):
        write_run(tmp_path, method, 1, [81.0], task_name="CoLA")
        folder = write_run(tmp_path, method, 1, [82.0], task_name="CoLA", name=f"older {method}")
        run = results_of(folder)
        del run["args"][later]
        (folder / "results.json").write_text(json.dumps(run))
        args = parsed(TASKS["CoLA"], ["--do_train", "--task_name", "CoLA", "--method", method])
        assert f"{later} 0" in different_settings(run, args)
    assert column(tmp_path, "Comparison of methods", "method", "last epoch")[1:] == [
        ("freelb, freelb_embedding_norm 0", "82.00"),
        ("freelb", "81.00"),
        ("smart", "81.00"),
        ("smart, smart_early_momentum 0.999", "82.00"),
    ]


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


def of_code(folder: Path, code: str | None, *segments: str | None) -> None:
    """Let a recorded run tell of the code that made it; a segment may not tell of any."""
    run = results_of(folder) | {"versions": {"code": code}}
    if segments:
        run["segments"] = [
            {"from_step": place, "to_step": place + 1, "versions": each and {"code": each}}
            for place, each in enumerate(segments)
        ]
    (folder / "results.json").write_text(json.dumps(run))


@pytest.mark.parametrize(
    ("runs", "codes", "marked"),
    [
        ([("a", "a"), ("a", "a", "a")], ["a"], False),
        ([("a",), ("a",)], ["a"], False),  # older records, without segments
        ([("a",), ("a", "a")], ["a"], False),
        ([("a",), (None,)], ["a"], False),  # not known
        ([("a",), ("b",)], ["a", "b"], True),
        ([("a", "a"), ("b", "b")], ["a", "b"], True),
        ([("b", "a", "b"), ("b", "b")], ["a", "b"], True),  # resumed with other code
        ([("b", None, "b"), ("b", "b")], ["b", "unknown"], True),
    ],
)
def test_a_row_of_more_than_one_code_version_is_marked(runs, codes, marked, tmp_path):
    """By the segments of a run, or between its seeds; rows of one version have no mark, and a table of them no note."""
    for seed, run in enumerate(runs):
        of_code(write_run(tmp_path, "asa", seed, [90.0]), *run)
        of_code(write_run(tmp_path, "naive", seed, [90.0]), "c")
    assert column(tmp_path, "Main table", "method", "n") == [("naive", "2"), ("asa", f"2{MIXED * marked}")]
    text = report(tmp_path, read_results(tmp_path), {}, tmp_path / "report")
    assert text.count(MIXED_NOTE) == marked
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    assert [row["code"] for row in rows] == [["c"], codes]


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


def test_a_score_of_other_questions_has_no_published_one_beside_it(tmp_path):
    for seed, changes in ((1, {}), (2, {"dream_questions": "all"})):
        write_run(tmp_path, "asa", seed, [60.0], task_name="DREAM", eval_on="test", **changes)
    said = column(tmp_path, "Main table", "settings", "published")
    assert [bool(published) for _, published in said] == ["dream_questions" not in settings for settings, _ in said]
    assert len(said) == 2


def test_twice_the_epochs_of_fine_tuning_cost_as_much(tmp_path):
    for seed in (42, 43):
        write_run(tmp_path, "naive", seed, [50.0 + seed], task_name="CoLA")
        write_run(tmp_path, "asa", seed, [53.0 + seed], task_name="CoLA")
        write_run(tmp_path, "naive", seed, [52.0 + 2 * seed], task_name="CoLA", num_train_epochs=6, name=f"long{seed}")
    cells = column(tmp_path, "Main table", "method", "settings", "at equal cost, last epoch")
    assert [cell[:2] for cell in cells] == [
        ("naive", "bf16"),
        ("asa", "bf16"),
        ("naive", "bf16, num_train_epochs 6"),
    ]
    # 53 + 42 - (52 + 84) = -41 and -42.
    assert cells[1][2].startswith("-41.50 [-47.85, -35.15]")
    assert cells[0][2] == cells[2][2] == ""


def test_intervals_over_rows_where_predictions_are_kept(tmp_path):
    """The row says what experiments.bootstrap makes of the files, and the sampling error is said in words."""
    rows = Features({"input_ids": [[1]] * 100}, labels=[number % 2 for number in range(100)])
    for seed in (42, 43, 44):
        for method, wrong in (("naive", 10 + seed % 3), ("asa", 14 + 2 * (seed % 3))):
            found = [1 - number % 2 if number < wrong else number % 2 for number in range(100)]
            folder = write_run(tmp_path, method, seed, [100.0 - wrong])
            write_predictions(folder / "predictions" / "SST-2.parquet", rows, [np.eye(2)[label] for label in found])
    [(_, plain), (_, said)] = column(tmp_path, "Main table", "method", "difference from fine-tuning, last epoch")
    assert plain == ""
    low, high = map(float, re.search(r"rows too \[(.+), (.+)\]", said).groups())
    over_seeds = re.search(r"^-5.00 \[(.+?), (.+?)\]", said)
    assert low < float(over_seeds[1]) < float(over_seeds[2]) < high
    text = report(tmp_path, read_results(tmp_path), {}, tmp_path / "report")
    row = json.loads((tmp_path / "report" / "report.json").read_text())["rows"][1]
    wider = (row["rows_high"] - row["rows_low"]) / (row["last_high"] - row["last_low"])
    assert row["rows_detectable"] == pytest.approx(row["last_detectable"] * wider)
    assert (", detectable" in said.partition("rows too")[2]) == (low <= 0 <= high)
    assert "one run's accuracy (bert-base-uncased, bf16) would have a standard deviation of about 3." in text
    (tmp_path / "asa44" / "predictions" / "SST-2.parquet").unlink()
    assert "rows too" not in column(tmp_path, "Main table", "difference from fine-tuning, last epoch")[1]
