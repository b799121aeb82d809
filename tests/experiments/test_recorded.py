"""The tables and pages of the repository say what its recorded runs say."""

import json
import re
from pathlib import Path

import pytest

import reproduce
from experiments.paired import compare, over_seeds
from experiments.records import read_results
from experiments.tables import report

ROOT = Path(reproduce.__file__).parent


@pytest.mark.parametrize("folder", ["mpnet", "mpnet_fp32", "minilm", "comparison", "robustness", "budget", "further"])
def test_the_recorded_tables_are_those_of_the_program(folder, capsys):
    reproduce.main(["report", str(ROOT / "results" / folder), "--no_times"])
    made = capsys.readouterr().out
    whole = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    recorded = whole.partition(f"<!-- python reproduce.py report results/{folder} --no_times -->")[2].partition(
        "<!-- end"
    )[0]

    def words(text: str) -> str:
        return " ".join(text.replace("#### ", "## ").split())

    rules, _, tables = made.partition("## ")
    assert words(rules) in words(whole)
    assert words(f"## {tables}") == words(recorded)
    assert tables.count("\n|") > 2  # more than a heading


def recorded_scores(folder: str, task: str, method: str) -> dict[int, float]:
    """Seed -> score after the last epoch, of the runs in `results/`."""
    runs = (ROOT / "results" / folder / task / method).glob("seed*/results.json")
    return {
        int(path.parent.name.removeprefix("seed")): json.loads(path.read_text())["epochs"][-1]["eval_score"]
        for path in runs
    }


def shown(runs: dict[str, dict[int, float]]) -> list[str]:
    """The cells of two methods' scores and of their difference."""
    found = compare(runs["asa"], runs["naive"])
    scores = [f"{each['mean']:.1f} ± {each['deviation']:.1f}" for each in map(over_seeds, runs.values())]
    return [
        *scores,
        f"{found['difference']:+z.1f} [{found['low']:+z.1f}, {found['high']:+z.1f}]".replace("+0.0 ", "0.0 "),
    ]


def test_the_table_of_the_front_page_is_that_of_the_recorded_runs(tmp_path):
    rows = re.findall(
        r"^\| ([A-Z]\S+) \| (.+±.+) \| (.+±.+) \| (.+) \| (.+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.M
    )
    results = ROOT / "results" / "mpnet"
    report(results, read_results(results), {}, tmp_path)
    found = {
        row["task"]: row
        for row in json.loads((tmp_path / "report.json").read_text())["rows"]
        if row["method"] == "asa" and not row["method_settings"]
    }
    for task, *written in rows:
        runs = {method: recorded_scores("mpnet", task, method) for method in ("naive", "asa")}
        assert [len(scores) for scores in runs.values()] == [5, 5], task
        wider = f"[{found[task]['rows_low']:+.1f}, {found[task]['rows_high']:+.1f}]"
        assert written == [*shown(runs), wider, f"{found[task]['rows_detectable']:.1f}"], task
    # On WNUT-2017, most runs of either method find no entity: docs/results.md.
    tasks = [path.parent.name for path in sorted(results.glob("*/asa"))]
    assert [*(task for task, *_ in rows), "WNUT-2017"] == tasks
    # The page of the results has the same figures, a column for each task.
    page = (ROOT / "docs" / "results.md").read_text()
    for name, cells in zip(
        ("plain fine-tuning", "ASA", "difference, over seeds", "difference, over seeds and rows"),
        list(zip(*rows, strict=True))[1:5],
        strict=True,
    ):
        assert f"| {name} | {' | '.join(cells)} |" in page


def test_the_keep_rates_of_the_front_page_are_the_recorded_ones():
    lines = re.findall(r"^\| \d+ to (\d+) \| (\d.*) \|$", (ROOT / "README.md").read_text(), re.M)
    runs = sorted((ROOT / "results" / "mpnet" / "CoLA" / "asa").glob("seed*/metrics.jsonl"))
    windows = [{row["step"]: row for row in map(json.loads, path.read_text().splitlines())} for path in runs]
    for step, cells in lines:
        found = []
        for layers in (slice(1), slice(1, 2), slice(2, 4), slice(4, 12)):
            rates = [rate for run in windows for rate in run[int(step)]["keep_rate"][layers]]
            ends = [f"{100 * end:.0f}" for end in (min(rates), max(rates))]
            found.append(" to ".join(dict.fromkeys(ends)))
        assert cells == " | ".join(found), step
    assert (len(lines), len(windows)) == (2, 5)


def test_the_table_of_the_small_encoder_is_that_of_the_recorded_runs():
    text = (ROOT / "docs" / "results.md").read_text()
    rows = re.findall(r"^\| (.+) \| (\d) \| (.+±.+) \| (.+±.+) \| (.+) \|$", text, re.M)
    for task, seeds, *written in rows:
        folder, task = ("robustness", "MNLI") if task.startswith("MNLI") else ("minilm", task)
        runs = {method: recorded_scores(folder, task, method) for method in ("naive", "asa")}
        assert {len(scores) for scores in runs.values()} == {int(seeds)}, task
        assert written == shown(runs), task
    assert len(rows) == 7


def test_the_page_of_the_row_budget_says_what_the_verdicts_say():
    verdicts = json.loads((ROOT / "results" / "budget" / "verdicts.json").read_text())
    page, front = (" ".join((ROOT / path).read_text().split()) for path in ("docs/row_budget.md", "README.md"))
    runs = {
        method: recorded_scores("budget/minilm", "MNLI", method)
        for method in ("naive", "random_budget-0.1", "asa_budget")
    }
    primary = next(each for each in verdicts["fixed"] if (each["task"], each["scored_on"]) == ("MNLI", "dev"))
    assert sorted(runs["naive"]) == primary["seeds"]
    control, plain = (
        next(each for each in primary["against"] if each["method"] == method) for method in ("random_mask", "naive")
    )
    for each, other in ((control, "random_budget-0.1"), (plain, "naive")):
        assert each["difference"] == pytest.approx(compare(runs["asa_budget"], runs[other])["difference"])

    def cell(each: dict) -> str:
        return f"{each['difference']:+.1f} [{each['rows_low']:+.1f}, {each['rows_high']:+.1f}]"

    scores = [f"{each['mean']:.1f} ± {each['deviation']:.1f}" for each in map(over_seeds, runs.values())]
    assert f"| plain fine-tuning | {scores[0]} | |" in page
    assert f"| random masks | {scores[1]} | " in page
    assert f"| row budget | {scores[2]} | {cell(plain)} |" in page
    assert cell(control) in page
    assert cell(control).replace(" [", " points [") in front
    columns = (
        ("naive", ""),
        ("naive", "num_train_epochs 6"),
        ("rdrop", ""),
        ("random_mask", "random_mask_budget 0.1"),
        ("asa_budget", "adversary_learning_rate 0"),
    )
    small = [each for each in verdicts["fixed"] if each["scored_on"] == "dev" and "MiniLM" in each["encoder"]]
    assert {each["task"] for each in small} == {"MNLI", "CoLA", "RTE", "MRPC", "STS-B"}
    for own in small:
        against = {(each["method"], each["method_settings"]): each for each in own["against"]}
        others = [against[column] for column in columns]
        scores = [
            f"{each['mean']:.1f} ± {each['deviation']:.1f}"
            for each in (*(each["theirs"] for each in others), own["score"])
        ]
        if own["task"] == "MNLI":
            assert all(
                f" | {score} | " in page and f" {cell(each)} |" in page
                for score, each in zip(scores, others, strict=False)
            )
        else:
            assert f"| {own['task']} | {' | '.join(scores)} |" in page
            assert f"| {own['task']} | {' | '.join(map(cell, others))} |" in page
    names = ("another seed's adversaries", "random masks")
    assert len(verdicts["losses"]) == len(small) * len(names)
    for loss in verdicts["losses"]:
        naive, masks = (
            next(each for each in loss["against"] if each["method"] == method) for method in ("naive", "random_mask")
        )
        lost = " | ".join(f"{each['mean']:.1f}" for each in (naive["theirs"], masks["theirs"], loss["loss"]))
        name = names["random masks" in loss["scored_on"]]
        assert f"| {loss['task']} | {name} | {lost} | {cell(naive)} | {cell(masks)} |" in page
