"""The tables that are made of runs, by value; the runs are written for the tests."""

import json
import re
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
from experiments.records import different_settings, parsed, read_results
from experiments.tables import MIXED, MIXED_NOTE, NOTES, report


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
    assert message(grouped, read_results(tmp_path)) == (
        f"two runs of one setting have the seed 1: move {tmp_path / 'again'} or {tmp_path / 'asa1'} away"
    )


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
    reproduce.main(["report", str(tmp_path / "runs"), "--no_times", "--output", str(tmp_path / "out")])
    without = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    assert [row.keys() - other.keys() for row, other in zip(rows, without, strict=True)] == [
        {"minutes", "step_seconds", "step_cost"}
    ] * 2
    assert "minutes" not in (tmp_path / "out" / "report.csv").read_text()


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
