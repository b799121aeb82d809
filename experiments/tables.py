"""The tables: scores over seeds, and the difference from plain fine-tuning, paired by seed."""

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data.published import published
from data.tasks import TASKS
from experiments.bootstrap import CONFIDENCE
from experiments.groups import Group, grouped, joined, listed
from experiments.paired import MOST_FLIPPED, POWER, compare, interval_text, over_rows, over_seeds
from experiments.records import Result
from models.methods import METHODS
from utils import InputError, counted, write_json, write_text

TITLES = {
    "main": "Main table",
    "comparison": "Comparison of methods",
    "ablation-tau": "Ablation: weight of the penalty",
    "ablation-layers": "Ablation: layers with an adversary",
    "robustness": "Robustness: the last epoch's checkpoint on other sets",
}
MIXED = " \N{DAGGER}"  # after the number of runs
MIXED_NOTE = (
    f"{MIXED.strip()} The runs of this row, or the parts of one run, used different versions of this project's code."
)
# Notes on a baseline's rows, printed below the comparison that has them.
NOTES = {
    "freelb": "its noise sizes are given for word embeddings with the norm `freelb_embedding_norm` (by default"
    " RoBERTa-large's) and scaled to the norm of the encoder's; 0 turns the scaling off",
    "smart": "as in the paper; with `smart_bregman` 0 as in the authors' code, which does not average weights. Most of"
    " its divergence under noise is due to dropout",
    "r3f": "with dropout in the encoder, its divergence is that between two draws of dropout, twice R-Drop's. Noise of"
    " 1e-5 changes it by less than 1 %, in bf16 and in fp32",
}
TIMES = ("minutes", "step_seconds", "step_cost")
SAID_ONCE = ("encoder", "settings")  # columns that are left out if all rows have the same value
RULES = f"""\
Scores are in per cent: mean ± standard deviation over n seeds. All finished seeds count; none is chosen. Published
figures from the GLUE server are scores on other data.

- *Last epoch*: the score after the last epoch.
- *Best epoch*: each run's best epoch, chosen by the score shown, which is therefore too high. For a run that is scored
  on a test set, it is chosen on that test set.
- *Difference from fine-tuning*: from plain fine-tuning of the same encoder, task and settings, paired by seed. Seeds
  without a partner are left out. There is no correction for the number of comparisons. A cell shows, in this order:
  - the mean difference and its {CONFIDENCE:.0%} interval, Student's t over seeds;
  - p of the paired t-test;
  - *detectable*, where the interval includes 0: the true difference that would be found with {POWER:.0%} probability;
  - *flips*: p of the exact sign-flip test, for up to {MOST_FLIPPED} pairs; with n pairs it cannot be below 2/2^n;
  - *rows too*, after the last epoch and where all these runs keep their predictions: the interval over seeds, widened
    by how much the difference changes when the evaluated rows are resampled (bootstrap). If it includes 0, the
    approximate *detectable* difference with this interval follows;
  - the number of pairs.
- *At equal cost*: the same, over seeds alone, against plain fine-tuning for twice the epochs."""


def sections(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Table -> its groups, by what varies between them."""
    families: dict[str, list[Group]] = {}
    for group in groups:
        families.setdefault(group.base, []).append(group)
    tables: dict[str, list[Group]] = {name: [] for name in TITLES}
    for family in families.values():
        if family[0].first.best is None:
            tables["robustness"] += family
            continue
        plain = [group for group in family if not group.changed_own]
        of_the_paper = [group for group in plain if group.method in ("naive", "asa")]
        baselines = [group for group in family if group.method not in ("naive", "asa")]
        tables["main"] += of_the_paper
        if baselines:
            tables["comparison"] += of_the_paper + baselines
        shown = of_the_paper + baselines
        for table, argument in (("ablation-tau", "tau"), ("ablation-layers", "asa_layers")):
            varied = [group for group in family if group.method == "asa" and group.changed_own.keys() <= {argument}]
            if len(varied) > 1:
                tables[table] += [group for group in plain if group.method == "naive"] + varied
                shown = shown + varied
        # ASA with several changed settings, or with one that has no table of its own.
        tables["comparison" if baselines else "main"] += [group for group in family if group not in shown]
    return {name: sorted(groups, key=_order) for name, groups in tables.items() if groups}


def _order(group: Group) -> tuple:
    place, task = list(METHODS).index(group.method), (*TASKS, group.task).index(group.task)
    setting = group.first.scored_on, len(group.changed_training), group.base
    own = [(value is None, value) for _, value in sorted(group.first.own.items())]  # None: all layers
    return group.encoder, task, group.task, *setting, place, own


def rows(tables: Mapping[str, Sequence[Group]], groups: Sequence[Group]) -> list[dict]:
    """A flat record for each row of the tables."""
    naive = {group.base: group for group in groups if group.method == "naive"}
    return [
        _row(table, group, naive.get(group.base), naive.get(group.base_of_twice_the_epochs))
        for table, members in tables.items()
        for group in members
    ]


def _row(table: str, group: Group, naive: Group | None, longer: Group | None) -> dict:
    first, results = group.first, group.results.values()
    row = {
        "table": table,
        "encoder": group.encoder,
        "task": group.task,
        "scored_on": first.scored_on,
        "examples": first.examples["eval"],
        "metric": first.metric,
        "method": group.method,
        "method_settings": listed(group.changed_own),
        "settings": group.settings,
        "n": len(group.results),
        "seeds": list(group.results),
    }
    for epoch in ("last", "best"):
        scores = group.scores(epoch)
        row |= {f"{epoch}_{name}": value for name, value in over_seeds(scores).items()}
        if naive and naive is not group:
            row |= {f"{epoch}_{name}": value for name, value in compare(scores, naive.scores(epoch)).items()}
    if longer and group.method != "naive":
        found = compare(group.scores("last"), longer.scores("last"))
        row |= {f"cost_{name}": value for name, value in found.items()}
    if naive and naive is not group:
        row |= {f"rows_{name}": value for name, value in (over_rows(group, naive) or {}).items()}
    row["minutes"] = statistics.fmean(result.minutes for result in results)
    row["step_seconds"] = _step_seconds(group)
    row["step_cost"] = row["step_seconds"] / _step_seconds(naive) if naive and _step_seconds(naive) else None
    others = "dream_questions" in group.changed_training  # not those of the published score
    usual = first.best is not None and not group.changed_own and not others
    row["published"] = published(group.encoder, group.method, group.task) if usual else ""
    row["scored_set"] = group.scored_set
    row["runs"] = [result.name for result in results]
    row["code"] = sorted({code for result in results for code in result.code})
    return row


def sampling_errors(records: Sequence[dict]) -> list[str]:
    """The sampling error of a score due to the size of each evaluation set, in words, if predictions are saved."""
    said = {}
    for row in records:
        if error := row.get("rows_sampling_error"):
            metric, settings = row["metric"].replace("_", " "), row["settings"]
            name, of = row["scored_set"], joined(row["encoder"], settings)
            said[name, of, metric] = (
                f"{name} has {row['examples']:,} rows. On other samples of as many rows, one run's"
                f" {metric} ({of}) would have a standard deviation of about {error:.1f} points."
            )
    return list(said.values())


def _step_seconds(group: Group) -> float:
    """The median step time, over all epochs of all seeds."""
    return statistics.median(seconds for result in group.results.values() for seconds in result.step_seconds)


def markdown(records: Sequence[dict], lacking: Mapping[str, str], times: bool = True, more: str = "") -> str:
    """The tables, with or without run times, with notes on the figures and a list of missing runs."""
    parts = [RULES]
    for table, title in TITLES.items():
        members = [record for record in records if record["table"] == table]
        if members:
            parts += [f"## {title}", _table(table, members, times), *sampling_errors(members)]
        if members and table == "comparison":
            found = {record["method"] for record in members}
            parts += [f"*{method}*: {note}." for method, note in NOTES.items() if method in found]
        if members and table == "comparison" and times:
            parts.append(
                "*Cost*: the median over epochs and seeds of the seconds a training step takes, as a ratio to naive's;"
                " it means something where the runs had the machine to themselves, or all shared it alike."
            )
    if more:
        parts.append(more)
    if lacking:
        by_row: dict[tuple[str, str], list[str]] = {}
        for name, lack in lacking.items():
            row, _, run = name.rpartition("/")
            by_row.setdefault((row, lack), []).append(run)
        lines = [f"- {row}, {lack}: {', '.join(runs)}" for (row, lack), runs in by_row.items()]
        parts += [f"## Missing: {len(lacking)} of the planned runs", "\n".join(lines)]
    return "\n\n".join(parts)


def _table(table: str, members: Sequence[dict], times: bool) -> str:
    columns = {
        "encoder": lambda row: row["encoder"],
        "trained on" if table == "robustness" else "task": lambda row: row["task"],
        "scored on": lambda row: f"{row['scored_on']}, {row['examples']:,}",
        "metric": lambda row: row["metric"].replace("_", " "),
        "method": lambda row: joined(row["method"], row["method_settings"]),
        "settings": lambda row: row["settings"],
        "n": lambda row: marked(row, row["n"]),
        "last epoch": lambda row: score_text(row, "last"),
        "difference from fine-tuning, last epoch": lambda row: difference_text(row, "last"),
    }
    if table != "robustness":
        columns["best epoch"] = lambda row: score_text(row, "best")
        columns["difference from fine-tuning, best epoch"] = lambda row: difference_text(row, "best")
    if any("cost_pairs" in row for row in members):
        columns["at equal cost, last epoch"] = lambda row: difference_text(row, "cost") if "cost_pairs" in row else ""
    if table != "robustness" and times:
        columns["minutes"] = lambda row: f"{row['minutes']:.1f}"
    if table == "comparison" and times:
        columns["cost"] = lambda row: "" if row["step_cost"] is None else f"{row['step_cost']:.2f}"
    if any(row["published"] for row in members):
        columns["published"] = lambda row: row["published"]
    return table_text(columns, members)


def marked(row: Mapping, cell) -> str:
    """A cell, marked if the runs of its row used different versions of the code."""
    return f"{cell}{MIXED * (len(row['code']) > 1)}"


def table_text(columns: Mapping[str, Callable[[dict], object]], members: Sequence[dict]) -> str:
    """Rows as a Markdown table, preceded by what they have in common.

    Args:
        columns: title -> function that returns a row's cell; one of them is `marked`.
    """
    cells = {name: [str(cell(row)) for row in members] for name, cell in columns.items()}
    alike = [f"{name} {cells.pop(name)[0]}" for name in SAID_ONCE if len(set(cells[name])) == 1]
    lines = [cells, ["---"] * len(cells), *zip(*cells.values(), strict=True)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if any(len(row["code"]) > 1 for row in members):
        text += f"\n\n{MIXED_NOTE}"
    return f"All rows: {'; '.join(alike)}.\n\n{text}" if alike else text


def score_text(row: Mapping, epoch: str) -> str:
    mean, deviation = (row[f"{epoch}_{name}"] for name in ("mean", "deviation"))
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def difference_text(row: Mapping, epoch: str) -> str:
    pairs = row.get(f"{epoch}_pairs")
    if pairs is None:
        return "" if row["method"] == "naive" else "no naive run"
    if not pairs:
        return "no pair"
    said = f"{row[f'{epoch}_difference']:+z.2f}"
    if row[f"{epoch}_low"] is not None:
        said += f" {interval_text(row[f'{epoch}_low'], row[f'{epoch}_high'])}, p {_p(row[f'{epoch}_p'])}"
    if row[f"{epoch}_low"] is not None and row[f"{epoch}_low"] <= 0 <= row[f"{epoch}_high"]:
        said += f", detectable {row[f'{epoch}_detectable']:.2f}"
    if row[f"{epoch}_p_flip"] is not None:
        said += f", flips {_p(row[f'{epoch}_p_flip'])}"
    rows = "rows" if epoch == "last" else f"{epoch}_rows"
    if row.get(f"{rows}_low") is not None:
        said += f", rows too {interval_text(row[f'{rows}_low'], row[f'{rows}_high'])}"
        if row[f"{rows}_low"] <= 0 <= row[f"{rows}_high"]:
            said += f", detectable {row[f'{rows}_detectable']:.2f}"
    return f"{said}, {counted(pairs, 'pair')}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def report(
    folder: Path,
    results: Sequence[Result],
    lacking: Mapping[str, str],
    output: Path | None = None,
    times: bool = True,
    more: tuple[str, list[dict]] = ("", []),
) -> str:
    """The tables of the results, as Markdown; with `output`, also written there as Markdown, CSV and JSON.

    Args:
        times: include how long the runs took.
        more: another table, and its rows.

    Raises:
        InputError: there is nothing to report, two runs with the same settings have the same seed, or predictions
            cannot be read or are not of the same rows.
    """
    if not results and not lacking and not more[1]:
        raise InputError(f"{folder}: no results.json of an evaluated run in it or below")
    groups = grouped(results)
    records = rows(sections(groups), groups)
    text = markdown(records, lacking, times, more[0])
    records += more[1]
    if not times:
        records = [{name: value for name, value in row.items() if name not in TIMES} for row in records]
    if output:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / "report.md", text + "\n")
        write_text(output / "report.csv", _csv(records))
        write_json(output / "report.json", {"rules": RULES, "rows": records, "missing": dict(lacking)})
    return text


def _csv(records: Sequence[dict]) -> str:
    names = dict.fromkeys(name for record in records for name in record)
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for record in records:
        joined = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in record.items()}
        writer.writerow(joined)
    return file.getvalue()
