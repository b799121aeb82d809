"""The row budget against its control: a fixed budget on all rows, a chosen one on half, losses and liveness."""

import json

import numpy as np
import pytest
from recorded_runs import write_run
from script_runs import message

from data.predictions import file_name
from experiments import verdicts

ROWS = 40
FIRST, SECOND = (list(map(int, half)) for half in verdicts.halves(ROWS))
MASKS = {"under-other": ("asa_budget", "/other/0_pytorch_model.bin"), "under-random": ("random_mask", "random")}


def record(folder, method: str, seed: int, right, on=None, labels=None, score="accuracy", **changes):
    """A run of SST-2 whose predictions are right on some rows; the labels alternate.

    Args:
        right: the rows.
        on: likewise of another set, "on-hard", or of its own under masks, as `MASKS` has them.
        labels: other ones; a prediction that is not right is then the next class.
    """
    run = write_run(
        folder, method, seed, [50.0], name=f"{method}-{'-'.join(map(str, changes.values()))}/{seed}", **changes
    )
    results = json.loads((run / "results.json").read_text())
    results["epochs"][0]["metrics"] = {score: 50.0}
    (run / "results.json").write_text(json.dumps(results))
    write_rows(run / "predictions" / file_name("SST-2"), right, labels)
    for name, rows in (on or {}).items():
        by, masks = MASKS.get(name, (method, None))
        args = {"task_name": "SST-2", "eval_on": "dev", "eval_file": None if masks else "/sets/hard.tsv", "method": by}
        args |= {"test_model_file": f"{run}/0_pytorch_model.bin", "eval_masks": masks}
        write_rows(run / name / "predictions" / (file_name("SST-2") if masks else "hard.parquet"), rows)
        scores = {"examples": {"eval": 1872 if masks else ROWS}, "eval_score": 50.0, "metrics": {"accuracy": 50.0}}
        (run / name / "evaluation.json").write_text(json.dumps({"args": args, **scores}))
    return run


def write_rows(path, right, labels=None) -> None:
    import pyarrow
    from pyarrow import parquet

    labels = labels or [row % 2 for row in range(ROWS)]
    count = max(labels) + 1
    found = [label if row in set(right) else (label + 1) % count for row, label in enumerate(labels)]
    logits = [[float(each == place) for place in range(count)] for each in found]
    path.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.table({"index": list(map(str, range(ROWS))), "label": labels, "logits": logits}), path)


def sections(folder) -> dict:
    output = folder / "verdicts.json"
    verdicts.main([str(folder), "--output", str(output)])
    return json.loads(output.read_text())


def differences(found: dict) -> dict:
    return {
        (row["method"], row["method_settings"]): row["difference"] and round(row["difference"], 2)
        for row in found["against"]
    }


def test_the_halves_are_all_the_rows_and_always_the_same():
    choosing, reporting = verdicts.halves(41)
    assert (len(choosing), len(reporting)) == (20, 21)
    assert sorted([*choosing, *reporting]) == list(range(41))
    assert np.array_equal(verdicts.halves(41)[0], choosing)
    assert 5 < (choosing % 2).sum() < 15


def test_the_default_budget_is_compared_on_all_rows(tmp_path, capsys):
    """Whatever other budgets score; the control is first, and every other method beside it."""
    for seed in (1, 2, 3):
        record(tmp_path, "asa_budget", seed, range(30 + seed), asa_budget=0.1)
        record(tmp_path, "asa_budget", seed, range(40), asa_budget=0.2)
        record(tmp_path, "random_mask", seed, range(22), random_mask_budget=0.1)
        record(tmp_path, "random_mask", seed, range(40), random_mask_budget=0.2)
        record(tmp_path, "naive", seed, range(20))
        record(tmp_path, "naive", seed, range(36), num_train_epochs=6)
    [found] = sections(tmp_path)["fixed"]
    assert (found["budget"], found["rows"], found["seeds"]) == (0.1, ROWS, [1, 2, 3])
    assert found["score"] == {"mean": pytest.approx(80.0), "deviation": pytest.approx(2.5)}
    assert differences(found) == {
        ("random_mask", "random_mask_budget 0.1"): 25,
        ("naive", ""): 30,
        ("naive", "num_train_epochs 6"): -10,
    }
    control, *_ = found["against"]
    assert (control["control"], control["pairs"], round(control["theirs"]["mean"], 9)) == (True, 3, 55)
    assert control["rows_low"] < control["low"] < 25 < control["high"] < control["rows_high"]
    shown = "SST-2, bf16 | dev, 40 | accuracy | 0.1 | 80.00"
    line = f"{shown} | **random_mask, random_mask_budget 0.1** | 55.00 | +25.00, 3 pairs"
    assert line in capsys.readouterr().out


def test_the_scores_of_a_line_are_of_the_seeds_that_both_have(tmp_path, capsys, caplog):
    for seed, right in ((1, 20), (2, 40)):
        record(tmp_path, "asa_budget", seed, range(right), asa_budget=0.1)
    for seed, right in ((1, 10), (3, 0)):
        record(tmp_path, "naive", seed, range(right))
    [found] = sections(tmp_path)["fixed"]
    [plain] = found["against"]
    assert (found["score"]["mean"], plain["own"]["mean"], plain["theirs"]["mean"]) == (75, 50, 25)
    assert "| 50.00 | naive | 25.00 | +25.00, 1 pair |" in capsys.readouterr().out
    assert "bert-base-uncased, bf16, SST-2, scored on dev: the control of seed 1, 2 is missing" in caplog.text


def test_a_seed_s_budget_is_chosen_by_the_others_on_the_first_half(tmp_path):
    """0.2 is the best of seeds 1 and 2, and 0.05 of seed 3: whose own models do not count, nor do its second rows."""
    good = {0.05: (6, 6, 20), 0.2: (16, 14, 0)}  # of the first half, by seed
    for seed in (1, 2, 3):
        for beta, of_seed in good.items():
            right = [*FIRST[: of_seed[seed - 1]], *SECOND[: round(100 * beta) - seed]]
            record(tmp_path, "asa_budget", seed, right, asa_budget=beta)
            record(tmp_path, "random_mask", seed, [*FIRST, *SECOND[: round(50 * beta)]], random_mask_budget=beta)
        record(tmp_path, "naive", seed, SECOND[:5])
    [found] = sections(tmp_path)["chosen"]
    # Seeds 2 and 3 give 0.05 a mean of 13 against 7, seeds 1 and 3 of 13 against 8, seeds 1 and 2 of 6 against 15.
    assert found["budget_of_seed"] == {"1": 0.05, "2": 0.05, "3": 0.2}
    assert [(each["budget"], round(each["mean"], 1)) for each in found["first_half"]] == [(0.05, 53.3), (0.2, 50.0)]
    assert found["rows"] == 20
    # 4, 3 and 17 right of 20, against 2, 2 and 10 of the control of the same budget.
    assert found["score"]["mean"] == pytest.approx(40)
    assert differences(found) == {("random_mask", "random_mask_budget as chosen"): 16.67, ("naive", ""): 15}


def test_of_a_chosen_budget_other_sets_are_scored_whole_and_the_own_rows_by_half(tmp_path):
    for seed in (1, 2):
        for beta, first in ((0.05, 20), (0.1, 10)):
            on = {"on-hard": range(30), "under-other": [*FIRST, *SECOND[:5]]} if beta == 0.05 else None
            record(tmp_path, "asa_budget", seed, FIRST[:first], on, asa_budget=beta)
        record(tmp_path, "random_mask", seed, FIRST, {"on-hard": range(20)}, random_mask_budget=0.05)
    found = {each["scored_on"]: each for each in sections(tmp_path)["chosen"]}
    under = "SST-2 dev under other adversaries"
    assert {name: each["rows"] for name, each in found.items()} == {"dev": 20, "SST-2 hard.tsv": 40, under: 20}
    assert found["SST-2 hard.tsv"]["score"]["mean"] == 75
    assert differences(found["SST-2 hard.tsv"]) == {("random_mask", "random_mask_budget as chosen"): 25}
    assert (found[under]["score"]["mean"], found[under]["against"]) == (25, [])


def test_the_choice_does_not_decide_which_seeds_are_compared(tmp_path, caplog):
    """Where a seed's chosen run was not scored on a set, there is no comparison of chosen budgets on it."""
    right = {0.05: (0, 10, 15), 0.1: (20, 11, 0)}  # of the rows of the first half
    for place, seed in enumerate((1, 2, 3)):
        for beta, on in ((0.05, None), (0.1, {"on-hard": range(30)})):
            record(tmp_path, "asa_budget", seed, FIRST[: right[beta][place]], on, asa_budget=beta)
    found = sections(tmp_path)
    [chosen] = found["chosen"]
    assert chosen["scored_on"] == "dev"
    assert chosen["budget_of_seed"] == {"1": 0.05, "2": 0.1, "3": 0.1}
    assert "scored on SST-2 hard.tsv: no runs of the chosen budgets: seed 1 (0.05)" in caplog.text
    assert [each["scored_on"] for each in found["fixed"]] == ["dev", "SST-2 hard.tsv"]


def test_the_row_budget_alone_has_its_score(tmp_path, capsys):
    for seed in (1, 2):
        record(tmp_path, "asa_budget", seed, range(30), asa_budget=0.1)
    [found] = sections(tmp_path)["fixed"]
    assert (found["score"]["mean"], found["against"]) == (75, [])
    assert "| 0.1 | 75.00 |  |  |  |  |  |" in capsys.readouterr().out


def test_losses_under_masks_are_compared_by_seed(tmp_path, capsys):
    for seed in (1, 2, 3):
        record(tmp_path, "asa_budget", seed, range(30), {"under-other": range(28 - seed)}, asa_budget=0.1)
        record(tmp_path, "random_mask", seed, range(32), {"under-other": range(26)}, random_mask_budget=0.1)
        record(tmp_path, "naive", seed, range(30 + seed), {"under-other": range(20)})
        drawn = {"asa_budget": 0.1, "adversary_learning_rate": 0.0}  # which only scores are compared with
        record(tmp_path, "asa_budget", seed, range(20), {"under-other": range(9)}, **drawn)
    found = sections(tmp_path)
    [loss] = found["losses"]
    assert (loss["loss"]["mean"], loss["rows"]) == (10, ROWS)  # 3, 4 and 5 of 40
    assert [(row["method"], row["control"], row["theirs"]["mean"]) for row in loss["against"]] == [
        ("naive", False, 30),
        ("random_mask", True, 15),
    ]
    naive, control = loss["against"]
    assert (naive["difference"], naive["pairs"]) == (-20, 3)
    assert (naive["low"], naive["rows_low"]) == (None, None)  # one row more each time on both sides: no spread
    assert control["low"] < -5 < control["high"]
    assert control["rows_low"] < control["low"]
    assert "| 10.00 | naive | 30.00 | -20.00, 3 pairs |" in capsys.readouterr().out


def test_losses_of_models_that_are_scored_in_another_precision(tmp_path):
    """As after a training on a GPU."""
    for seed in (1, 2):
        for method, right, share in (("asa_budget", 28, {"asa_budget": 0.1}), ("naive", 24, {})):
            run = record(tmp_path, method, seed, range(30), {"under-other": range(right - seed)}, **share)
            for path, precision in ((run / "results.json", "fp16"), (run / "under-other" / "evaluation.json", "fp32")):
                path.write_text(json.dumps(json.loads(path.read_text()) | {"precision": precision}))
    [loss] = sections(tmp_path)["losses"]
    assert loss["scored_on"] == "SST-2 dev under other adversaries, in fp32"
    assert [row["difference"] for row in loss["against"]] == [-10]


def lives(run, figures) -> None:
    """Give a run its liveness, every 20 steps."""
    steps = [{"step": 20 * place, "liveness": value} for place, value in enumerate(figures, 1)]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in [{"step": 1}, *steps]))


@pytest.mark.parametrize(
    ("figures", "alive"),
    [([3.0] * 8 + [0.5, 0.5], False), ([1.2] * 10, False), ([3.0] * 9 + [0.9], True)],
    ids=["often below chance", "no more than untrained", "alive"],
)
def test_when_there_is_an_adversary(figures, alive, tmp_path, capsys):
    """Its median is above that of untrained ones, and its lowest tenth at least 1."""
    start = [9.0] * 5  # up to step 100
    lives(record(tmp_path, "asa_budget", 1, range(30), asa_budget=0.1), [*start, *figures])
    lives(record(tmp_path, "asa_budget", 1, range(9), asa_budget=0.1, adversary_learning_rate=0.0), [*start, 1.5])
    [live] = sections(tmp_path)["liveness"]
    assert live["adversary"] is alive
    assert f"| 1.50 | 1.50 | {'yes' if alive else 'no'} |" in capsys.readouterr().out


def test_liveness_stands_beside_that_of_adversaries_that_learned_nothing(tmp_path, capsys, caplog):
    start = [9.0] * 5  # up to step 100
    for seed in (1, 2):
        lives(record(tmp_path, "asa_budget", seed, range(30), asa_budget=0.1), [*start, 2.0, 3.0, None, 4.0])
        lives(record(tmp_path, "asa_budget", seed, range(30), asa_budget=0.2), [*start, 0.5, 3.0])
    lives(record(tmp_path, "asa_budget", 1, range(9), asa_budget=0.1, adversary_learning_rate=0.0), [*start, 1.5, 1.0])
    found = sections(tmp_path)
    live, other = found["liveness"]
    assert (live["median"], live["tenth"], live["measured"], live["without"]) == (3, 2, 6, 2)
    assert live["untrained"] == {
        "seeds": [1],
        "measured": 2,
        "without": 0,
        "median": 1.25,
        "tenth": pytest.approx(1.05),
    }
    assert live["adversary"] is True
    assert (other["budget"], other["untrained"], other["adversary"]) == (0.2, None, None)
    assert "SST-2, scored on dev: asa_budget 0.2 has no run with --adversary_learning_rate 0" in caplog.text
    [fixed] = found["fixed"]  # that run is no candidate, but its score is compared
    assert differences(fixed) == {("asa_budget", "adversary_learning_rate 0"): 52.5}
    assert "| 0.1 | 1, 2 | 6 | 3.00 | 2.00 | 2 | 1.25 | 1.05 | yes |" in capsys.readouterr().out


def test_a_seed_that_was_measured_more_often_weighs_no_more(tmp_path, caplog):
    """Steps 120 to 200 of seed 1; of seed 2 step 200 alone, and of seed 3 none that seed 2 has."""
    often = record(tmp_path, "asa_budget", 1, range(30), asa_budget=0.1)
    lives(often, [9.0] * 5 + [8.0, 8.0, 8.0, 8.0, 2.0])
    seldom = record(tmp_path, "asa_budget", 2, range(30), asa_budget=0.1)
    (seldom / "metrics.jsonl").write_text('{"step": 200, "liveness": 4.0}\n')
    [live] = sections(tmp_path)["liveness"]
    assert (live["seeds"], live["measured"], live["median"]) == ([1, 2], 2, 3)
    other = record(tmp_path, "asa_budget", 3, range(30), asa_budget=0.1)
    (other / "metrics.jsonl").write_text('{"step": 110, "liveness": 4.0}\n')
    assert sections(tmp_path)["liveness"] == []
    assert "scored on dev: asa_budget: no step has the liveness of all seeds" in caplog.text


def test_only_seeds_with_liveness_are_named(tmp_path, caplog):
    lives(record(tmp_path, "asa_budget", 1, range(30), asa_budget=0.1), [9.0] * 5 + [2.0, 3.0])
    record(tmp_path, "asa_budget", 2, range(30), asa_budget=0.1)
    record(tmp_path, "asa_budget", 3, range(30), asa_budget=0.1, adversary_learning_rate=1e-3)
    [live] = sections(tmp_path)["liveness"]
    assert live["seeds"] == [1]
    assert "asa_budget 0.1 has no liveness of the seeds 2" in caplog.text
    record(tmp_path, "asa_budget", 1, range(30), asa_budget=0.2)
    assert len(sections(tmp_path)["liveness"]) == 1
    assert "asa_budget 0.2 has no liveness: train it with --liveness_steps" in caplog.text
    assert "asa_budget, adversary_learning_rate 0.001 is left out: not a setting of this plan" in caplog.text


def test_the_control_has_no_other_setting_of_its_own(tmp_path, caplog):
    for seed in (1, 2):
        record(tmp_path, "asa_budget", seed, range(30), asa_budget=0.1)
        record(tmp_path, "random_mask", seed, range(20), random_mask_budget=0.1, asa_layers="0-1")
    [found] = sections(tmp_path)["fixed"]
    [other] = found["against"]
    assert (other["method_settings"], other["control"]) == ("asa_layers 0-1, random_mask_budget 0.1", False)
    missing = (
        "the control of seed 1, 2 is missing: random_mask with random_mask_budget 0.1 and no other setting of its own"
    )
    assert f"SST-2, scored on dev: {missing}" in caplog.text


def test_what_cannot_be_compared_by_rows_is_left_out(tmp_path, caplog):
    for seed in (1, 2):
        record(tmp_path, "asa_budget", seed, range(30), asa_budget=0.1)
        record(tmp_path, "naive", seed, range(20))
        labels = [(row + seed) % 2 for row in range(ROWS)]
        record(tmp_path, "asa_budget", seed, [], labels=labels, asa_budget=0.1, dev_fraction=0.1)
        labels = [row % 3 for row in range(ROWS)]
        record(tmp_path, "asa_budget", seed, [], labels=labels, score="macro_f1", asa_budget=0.1, learning_rate=1.0)
        for method, right in (("asa_budget", 20), ("naive", 16)):  # a test set is the same for all seeds
            share = {"asa_budget": 0.1} if method == "asa_budget" else {}
            record(tmp_path, method, seed, range(right), dev_fraction=0.2, eval_on="test", learning_rate=2.0, **share)
    found, on_test = sections(tmp_path)["fixed"]
    assert differences(found) == {("naive", ""): 25}
    assert differences(on_test) == {("naive", "eval_on test, learning_rate 2, dev_fraction 0.2"): 10}
    assert "dev_fraction 0.1, scored on dev: asa_budget is left out: each seed holds out other rows" in caplog.text
    assert "asa_budget is left out: macro_f1 is not computed from rows here" in caplog.text


def test_nothing_to_compare(tmp_path):
    record(tmp_path, "naive", 1, [])
    assert message(verdicts.main, [str(tmp_path)]) == f"{tmp_path}: no runs of asa_budget that can be compared"
