"""The comparisons of results/budget/PLAN.md: the row budget against its control, and its adversaries' liveness.

python -m experiments.verdicts runs/budget --output results/budget/verdicts.json

1. The default budget, fixed beforehand, against random masks that mask as many keys of each row, against every other
   method that was run alongside, and against adversaries that learn nothing, on all rows. Nothing is chosen.
2. The best of several budgets. A seed's budget is the one with the best mean score of the *other* seeds on the first
   half of the evaluation set, a fixed draw of its rows. The seed's own run, and its control with the same budget, are
   compared on the second half. The choice uses neither the seed's models nor the reported rows, so it favours neither
   side. Because each seed takes part in the choice for the others, the intervals are a little too narrow. Sets other
   than the training's own are scored whole.
3. How much of its score each method loses under masks.
4. The adversaries' liveness, compared with that of untrained adversaries.

Differences are paired by seed. The scores come from the runs' predictions, after the last epoch.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments import paired, pretraining
from experiments.groups import Group, Predicted, check_rows, grouped, joined, listed, read_predicted, where
from experiments.paired import interval_text, over_seeds
from experiments.records import Result, read_metrics, read_results
from models.methods import ASA_BUDGET
from training.versions import versions
from utils import InputError, Parser, counted, log, run_script, write_json

METHOD, CONTROL = "asa_budget", "random_mask"
SHARE = {METHOD: "asa_budget", CONTROL: "random_mask_budget"}
FIXED = ASA_BUDGET
RATE = "adversary_learning_rate"
LEARNED_AFTER = 100  # steps; earlier, an adversary's liveness means little


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the runs below the given folders, print Markdown tables, and write JSON.

    Raises:
        InputError: there is nothing to compare, a file cannot be read, two runs of one setting have the same seed, or
            two runs were not scored on the same rows. Nothing has been written by then.
    """
    parser = Parser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a grid's folder, or any with runs in it")
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args(argv)
    read = (pretraining.apart(read_results(Path(folder)))[1] for folder in args.folders)
    groups = grouped(result for results in read for result in results)
    found = sections(groups)
    if not any(found.values()):
        raise InputError(f"{', '.join(args.folders)}: no runs of {METHOD} that can be compared")
    print(markdown(found))
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, {"args": {"folders": args.folders}, "versions": versions(), **found})
        log.info(f"written: {args.output}")


def sections(groups: Sequence[Group]) -> dict[str, list[dict]]:
    """Section -> its records, for the runs with the row budget and those to compare with."""
    by_base: dict[str, list[Group]] = {}
    for group in groups:
        by_base.setdefault(group.base, []).append(group)
    families = []
    for family in by_base.values():
        if any(group.method == METHOD and budget_of(group) is not None for group in family):
            twice = family[0].base_of_twice_the_epochs
            families.append([*family, *(group for group in by_base.get(twice, ()) if group.method == "naive")])
    wanted = dict.fromkeys(group for family in families for group in family if _is_compared(group))
    read = {group: predicted for group in wanted if (predicted := read_predicted(group))}
    families = [family for family in families if any(group in read for group in family if group.method == METHOD)]
    for family in families:
        check_rows(family, read)
    picks = {
        _training(family[0]): chosen
        for family in families
        if family[0].first.best is not None and (chosen := choices(family, read))
    }
    unmasked = {_trained(group): group for group in read if group.first.best is not None}
    return {
        "fixed": [record for family in families if (record := fixed(family, read))],
        "chosen": [record for family in families if (record := chosen_by_others(family, read, picks))],
        "losses": [record for family in families if (record := losses(family, read, unmasked))],
        "liveness": liveness(groups),
    }


def budget_of(group: Group) -> float | None:
    """The share of a row budget, or of its random-mask control; None if the method has any other setting."""
    share = SHARE.get(group.method)
    return group.first.own.get(share) if share and group.changed_own.keys() <= {share} else None


def untrained(group: Group) -> float | None:
    """The row budget of adversaries that stay as they were drawn; None for any other setting."""
    if group.method != METHOD or not group.changed_own.keys() <= {SHARE[METHOD], RATE} or group.first.own[RATE] != 0:
        return None
    return group.first.own[SHARE[METHOD]]


def _is_compared(group: Group) -> bool:
    return group.method != METHOD or budget_of(group) is not None or untrained(group) == FIXED


def _training(group: Group) -> str:
    """The key shared by groups that were trained alike except for the method."""
    return json.dumps([group.first.training, group.first.precision, group.first.examples["train"]], sort_keys=True)


def _trained(group: Group) -> str:
    """Like `_training`, with the method."""
    return json.dumps([_training(group), group.method, group.first.own], sort_keys=True)


def halves(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows on which a budget is chosen, and those that are reported; always the same rows."""
    order = np.random.default_rng(0).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


Read = Mapping[Group, Predicted]
# A line of a table where nothing was run beside the row budget.
ALONE = dict.fromkeys(("method", "method_settings"), "") | {"control": False, "theirs": {"mean": None}, "pairs": 0}
ALONE |= dict.fromkeys(("difference", "low", "high", "rows_low", "rows_high"))


def _arms(family: Sequence[Group], read: Read, method: str) -> dict[float, Predicted]:
    """Budget -> predictions, for the row budget or its control."""
    found = {budget_of(group): read[group] for group in family if group.method == method and group in read}
    return {budget: found[budget] for budget in sorted(budget for budget in found if budget is not None)}


def _others(family: Sequence[Group], read: Read) -> list[Group]:
    """All groups of other methods than the row budget, except its control."""
    return [group for group in family if group in read and group.method != METHOD and budget_of(group) is None]


def fixed(family: Sequence[Group], read: Read) -> dict | None:
    """The budget fixed beforehand against all other methods, on all rows; None if it was not run."""
    ours = _arms(family, read, METHOD).get(FIXED)
    if ours is None:
        log.warning(f"{where(family[0])}: no run of {METHOD} with the budget {FIXED:g}")
        return None
    control = _arms(family, read, CONTROL).get(FIXED)
    rows = np.arange(len(ours[1]))
    others = [*_others(family, read), *(group for group in family if group in read and untrained(group) == FIXED)]
    return _about(family, rows) | {"budget": FIXED} | _compared(family, others, read, ours, control, f"{FIXED:g}", rows)


def choices(family: Sequence[Group], read: Read) -> dict[int, float]:
    """Seed -> the budget with the best mean score of the other seeds on the first half; the smallest if tied.

    Only seeds with a run for each budget count. Empty unless there are two budgets and two such seeds.
    """
    arms = _arms(family, read, METHOD)
    if len(arms) < 2:
        return {}
    of_arms = [set(runs) for runs, _ in arms.values()]
    seeds = sorted(set.intersection(*of_arms))
    if lacking := set.union(*of_arms) - set(seeds):
        said = ", ".join(map(str, sorted(lacking)))
        log.warning(f"{where(family[0])}: seeds without a run of each budget, left out of the choice: {said}")
    if len(seeds) < 2:
        return {}
    scored = {beta: _first_half(family[0], found) for beta, found in arms.items()}
    return {
        seed: max(arms, key=lambda beta: statistics.fmean(scored[beta][other] for other in seeds if other != seed))
        for seed in seeds
    }


def _first_half(group: Group, found: Predicted) -> dict[int, float]:
    return paired.scores(group.first.metric, found, halves(len(found[1]))[0])


def chosen_by_others(family: Sequence[Group], read: Read, picks: Mapping[str, Mapping[int, float]]) -> dict | None:
    """Each seed's budget, chosen by the other seeds' models, against all other methods; None if none was chosen.

    None, too, where a seed's chosen run was not scored: the choice must not decide which seeds are compared.

    Args:
        picks: key of `_training` -> seed -> budget.
    """
    of_seed = picks.get(_training(family[0]), {})
    arms = _arms(family, read, METHOD)
    ours = paired.of_seeds(arms, of_seed)
    if ours is None:
        return None
    if lacking := of_seed.keys() - ours[0].keys():
        said = ", ".join(f"{seed} ({of_seed[seed]:g})" for seed in sorted(lacking))
        log.warning(f"{where(family[0])}: no runs of the chosen budgets: seed {said}")
        return None
    first, count = family[0].first, len(ours[1])
    rows = halves(count)[1] if first.same_rows else np.arange(count)
    control = paired.of_seeds(_arms(family, read, CONTROL), of_seed)
    choosing = []
    if first.best is not None:
        scored = {beta: _first_half(family[0], found) for beta, found in arms.items()}
        choosing = [
            {"budget": beta, **over_seeds({seed: of_beta[seed] for seed in of_seed})}
            for beta, of_beta in scored.items()
        ]
    return (
        _about(family, rows)
        | {"budget_of_seed": {str(seed): beta for seed, beta in of_seed.items()}, "first_half": choosing}
        | _compared(family, _others(family, read), read, ours, control, "as chosen", rows)
    )


def _about(family: Sequence[Group], rows: np.ndarray) -> dict:
    first = family[0].first
    return {
        "encoder": family[0].encoder,
        "task": family[0].task,
        "settings": family[0].settings,
        "scored_on": first.scored_on,
        "metric": first.metric,
        "rows": len(rows),
    }


def _compared(
    family: Sequence[Group],
    others: Sequence[Group],
    read: Read,
    ours: Predicted,
    control: Predicted | None,
    budget: str,
    rows: np.ndarray,
) -> dict:
    """A score, and its differences from the control and from the others."""
    metric = family[0].first.metric
    if lacking := set(ours[0]) - set(control[0] if control else ()):
        said = ", ".join(map(str, sorted(lacking)))
        log.warning(
            f"{where(family[0])}: the control of seed {said} is missing:"
            f" {CONTROL} with {SHARE[CONTROL]} {budget} and no other setting of its own"
        )
    sides = [(CONTROL, f"{SHARE[CONTROL]} {budget}", control)] if control else []
    sides += [(group.method, listed(group.changed_own | group.changed_training), read[group]) for group in others]
    return {
        "seeds": sorted(ours[0]),
        "score": over_seeds(paired.scores(metric, ours, rows)),
        "against": [
            {"method": method, "method_settings": settings, "control": theirs is control}
            | paired.against(metric, [ours], [theirs], rows)
            for method, settings, theirs in sides
        ],
    }


def losses(family: Sequence[Group], read: Read, unmasked: Mapping[str, Group]) -> dict | None:
    """How much of their score models lose under masks, and how that loss differs between methods.

    This is for the budget fixed beforehand, on all rows of the training's own evaluation set; None for anything else.

    Args:
        unmasked: key of `_trained` -> the evaluation of the same models without masks.
    """
    first = family[0].first
    if not first.masks or not first.same_rows:
        return None
    sides: dict[Group, list[Predicted]] = {}
    for group in family:
        counts = budget_of(group) == FIXED or (group.method != METHOD and budget_of(group) is None)
        if group in read and counts and (whole := unmasked.get(_trained(group))):
            check_rows([whole, group], read)
            sides[group] = [read[whole], read[group]]
    ours = next((sides[group] for group in sides if group.method == METHOD), None)
    if ours is None:
        return None
    rows = np.arange(len(ours[0][1]))
    return (
        _about(family, rows)
        | {"budget": FIXED, "loss": over_seeds(paired.values(first.metric, ours, rows))}
        | {
            "against": [
                {"method": group.method, "method_settings": listed(group.changed_own | group.changed_training)}
                | {"control": budget_of(group) == FIXED}
                | paired.against(first.metric, ours, theirs, rows)
                for group, theirs in sides.items()
                if group.method != METHOD
            ]
        }
    )


def liveness(groups: Sequence[Group]) -> list[dict]:
    """The liveness for each setting of the row budget, and that of untrained adversaries."""
    trained, drawn = {}, {}
    for group in groups:
        if group.method != METHOD or group.first.best is None:
            continue
        key = group.base, group.first.own[SHARE[METHOD]]
        if budget_of(group) is not None:
            trained[key] = group
        elif untrained(group) is not None:
            drawn[key] = group
        else:
            log.warning(
                f"{where(group)}: {METHOD}, {listed(group.changed_own)} is left out: not a setting of this plan"
            )
    records = []
    for key, group in sorted(trained.items()):
        found = _liveness(group)
        if not found["measured"]:
            log.warning(f"{where(group)}: {METHOD} {key[1]:g} has no liveness: train it with --liveness_steps")
            continue
        reference = _liveness(drawn[key]) if key in drawn else None
        if reference is None or not reference["measured"]:
            reference = None
            log.warning(f"{where(group)}: {METHOD} {key[1]:g} has no run with --{RATE} 0 to compare its liveness with")
        if lacking := group.results.keys() - found["seeds"]:
            said = ", ".join(map(str, sorted(lacking)))
            log.warning(f"{where(group)}: {METHOD} {key[1]:g} has no liveness of the seeds {said}")
        alive = reference and found["median"] > reference["median"] and found["tenth"] >= 1
        records.append(
            {"encoder": group.encoder, "task": group.task, "settings": group.settings, "budget": key[1], **found}
            | {"untrained": reference, "adversary": None if reference is None else bool(alive)}
        )
    return records


def _liveness(group: Group) -> dict:
    """Median and tenth percentile over the measurements of `seeds`; `without` counts measurements without a value.

    Only steps count at which all of these seeds were measured: a seed that was measured more often must not weigh more.
    """
    of_seed = {seed: values for seed, result in group.results.items() if (values := _measured(result))}
    steps = set.intersection(*map(set, of_seed.values())) if of_seed else set()
    if of_seed and not steps:
        log.warning(f"{where(group)}: {METHOD}: no step has the liveness of all seeds")
    found = [values[step] for values in of_seed.values() for step in sorted(steps)]
    known = [value for value in found if value is not None]
    return {
        "seeds": [seed for seed, values in of_seed.items() if any(values[step] is not None for step in steps)],
        "measured": len(known),
        "without": len(found) - len(known),
        "median": float(np.median(known)) if known else None,
        "tenth": float(np.quantile(known, 0.1)) if known else None,
    }


def _measured(result: Result) -> dict[int, float | None]:
    """Step -> liveness of a run, after the first steps; for a step logged again after a resume, the last one.

    Raises:
        InputError: its metrics.jsonl cannot be read.
    """
    path = result.folder / "metrics.jsonl"
    records = read_metrics(path) if path.exists() else []
    of_step = {record["step"]: record["liveness"] for record in records if "liveness" in record}
    return {step: value for step, value in of_step.items() if step > LEARNED_AFTER}


def markdown(found: Mapping[str, Sequence[dict]]) -> str:
    """A table for each section; for differences, a line for each method that the row budget is compared with.

    The two scores of a line are means over the seeds that both methods have.
    """
    scored = ["encoder", "trained on", "scored on", "metric", "budget"]
    difference = ["against", "theirs", "difference", "over seeds", "rows too"]
    tables = {
        f"Budget {FIXED:g}, fixed beforehand": ([*scored, "score", *difference], found["fixed"], "score"),
        "Budget chosen by the other seeds on half of the rows": (
            [*scored, "score", *difference],
            found["chosen"],
            "score",
        ),
        f"Loss under masks, budget {FIXED:g}": ([*scored, "loses", *difference], found["losses"], "loss"),
    }
    parts = []
    for title, (columns, records, what) in tables.items():
        lines = [_line(record, row, what) for record in records for row in record["against"] or [ALONE]]
        if lines:
            parts += [f"## {title}", _table(columns, lines)]
    columns = ["encoder", "trained on", "budget", "seeds", "measured", "median", "lowest tenth"]
    columns += ["untrained: measured", "median", "lowest tenth", "an adversary"]
    if found["liveness"]:
        parts += [f"## Liveness after step {LEARNED_AFTER}", _table(columns, map(_live, found["liveness"]))]
    return "\n\n".join(parts)


def _table(columns: Sequence[str], lines) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *lines])


def _line(record: Mapping, row: Mapping, what: str) -> list[str]:
    other = joined(row["method"], row["method_settings"])
    budgets = list(record["budget_of_seed"].values()) if "budget_of_seed" in record else []
    times = [f"{budget:g} ({budgets.count(budget)} of {len(budgets)})" for budget in sorted(set(budgets))]
    return [
        record["encoder"],
        joined(record["task"], record["settings"]),
        f"{record['scored_on']}, {record['rows']:,}",
        record["metric"].replace("_", " "),
        ", ".join(times) or f"{record['budget']:g}",
        _figure(row.get("own", record[what])["mean"]),
        f"**{other}**" if row["control"] else other,
        _figure(row["theirs"]["mean"]),
        "" if row["difference"] is None else f"{row['difference']:+z.2f}, {counted(row['pairs'], 'pair')}",
        interval_text(row["low"], row["high"]),
        interval_text(row["rows_low"], row["rows_high"]),
    ]


def _live(record: Mapping) -> list[str]:
    drawn = record["untrained"] or {"measured": "", "median": None, "tenth": None}
    return [
        record["encoder"],
        joined(record["task"], record["settings"]),
        f"{record['budget']:g}",
        ", ".join(map(str, record["seeds"])),
        *(
            cell
            for side in (record, drawn)
            for cell in (f"{side['measured']}", *map(_figure, (side["median"], side["tenth"])))
        ),
        {None: "", True: "yes", False: "no"}[record["adversary"]],
    ]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    run_script(main)
