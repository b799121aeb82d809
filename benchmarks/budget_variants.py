"""Variants of the row budget: does another design make a stronger adversary? Liveness during short training runs.

python -m benchmarks.budget_variants --data_dir data/sets --output benchmarks/results/budget_variants.json

Each variant changes one thing: the weight that a masked key keeps, the adversaries' learning rate, the budget in the
first steps or in each layer, or whether the budget is per row or per sentence. Each run is the beginning of fine-tuning
with the task's recipe, in float32. After the first 50 steps, liveness is measured on other batches of the training set.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.adversary import Setting, begin, make_parser, other_batches, recorded, task_data, train
from data.task_kinds import Recipe, SentenceTask
from data.tasks import SENTENCE_TASKS, find_task
from training.flags import share
from utils import InputError, keep_freed_memory, log, run_script, write_json

if TYPE_CHECKING:
    from data.features import Features

# Arguments that must be the same for all runs of a file.
SHARED = ("task_name", "load_model_path", "max_seq_length", "budget", "steps", "every", "batches")
MEASURED_FROM = 50  # before this step the adversaries have learned little, whatever the variant


@dataclass(frozen=True)
class Variant:
    """The differences from `--method asa_budget`.

    budgets: factors on the budget in the first and in the last layer, interpolated linearly in between.
    warm_up: steps over which the budget grows from 0; a row hides at least one key from the start.
    rate: factor on the learning rate, for the adversaries.
    of_layer: the share is of all pairs of a sentence, not of each row.
    """

    eps: float = 1e-4
    rate: float = 1.0
    warm_up: int = 0
    budgets: tuple[float, float] = (1.0, 1.0)
    of_layer: bool = False


VARIANTS = {
    "as it is": Variant(),
    "eps 1e-2": Variant(eps=1e-2),
    "eps 1e-6": Variant(eps=1e-6),
    "rate x 5": Variant(rate=5.0),
    "rate / 5": Variant(rate=0.2),
    "budget warmed up over 50 steps": Variant(warm_up=50),
    "budget x 0.5 to x 1.5, first layer to last": Variant(budgets=(0.5, 1.5)),
    "budget x 1.5 to x 0.5": Variant(budgets=(1.5, 0.5)),
    "threshold of a layer": Variant(of_layer=True),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train each variant with each seed, print a Markdown table, and write the figures as JSON to `--output`."""
    args = parse_arguments(argv)
    from training.versions import versions

    keep_freed_memory()
    task = find_task(args.task_name, SENTENCE_TASKS)
    features, collate = task_data(args, task)
    shared = {name: getattr(args, name) for name in SHARED}
    runs = recorded(args.output, shared)
    for seed, name in itertools.product(args.seeds, args.variants):
        if any((run["variant"], run["seed"]) == (name, seed) for run in runs):
            log.info(f"{name}, seed {seed}: recorded already")
            continue
        log.info(f"{name}, seed {seed}")
        states = follow(args, task, seed, name, features, collate)
        runs.append({"variant": name, "seed": seed, "versions": versions(), "states": states})
        if args.output:
            write_json(args.output, {"args": shared, "runs": runs})
    print(markdown(runs))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, seeds=[42, 13], steps=150, every=10)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="(default: all)")
    parser.add_argument("--budget", type=share, default=0.1, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    if args.steps // args.every * args.every <= MEASURED_FROM:
        raise InputError(f"--steps {args.steps}: nothing is measured before step {MEASURED_FROM + 1}: give more")
    return args


def follow(
    args: argparse.Namespace, task: SentenceTask, seed: int, name: str, features: Features, collate
) -> list[dict[str, float]]:
    """Train a variant; return, for some steps, `liveness` and `learned`, the divergence under its masks."""
    import torch

    from models.liveness import divergences

    variant, recipe = VARIANTS[name], task.recipe or Recipe(train_examples=0)
    setting = Setting(None, args.budget, recipe.learning_rate, seed)
    model, device = begin(args, task, setting)
    rules = layer_rules(variant, args.budget, len(model.adversaries))
    whole = [rule.beta for rule in rules]
    turns = itertools.cycle(rules)  # one for each adversary of a pass, in order

    def rule(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return next(turns)(*given)

    rule.hidden_score = rules[0].hidden_score  # type: ignore[attr-defined]
    model.rule = rule

    measured_on = other_batches(args, recipe, seed, features, collate, device)
    rows = sum(len(batch["labels"]) for batch in measured_on)
    generator = torch.Generator(device).manual_seed(seed)
    states = []
    rate = variant.rate * recipe.learning_rate
    for step, _ in enumerate(train(args, recipe, setting, model, features, collate, rate)):
        if step % args.every == 0 and step > MEASURED_FROM:
            moved = sum(len(batch["labels"]) * divergences(model, generator, **batch) for batch in measured_on)
            learned, random = (moved / rows).tolist()
            states.append({"step": step, "liveness": learned / random, "learned": learned})
        for each, beta in zip(rules, whole, strict=True):  # for the next step
            each.beta = beta * min(1.0, (step + 1) / max(1, variant.warm_up))
    return states


def layer_rules(variant: Variant, budget: float, layers: int) -> list:
    """The rule of each layer."""
    from models.budget import RowBudget

    class LayerBudget(RowBudget):
        """Masks the lowest scores of a whole sentence; a row that would be fully masked stays unmasked."""

        def thresholds(self, score, pairs):
            lowest = score.masked_fill(~pairs, float("inf")).flatten(1).sort(-1).values  # (B, L * L)
            hidden = (self.beta * pairs.sum((1, 2))).round().long().clamp(min=1)
            below, above = (lowest.gather(1, (hidden - 1 + place)[:, None]) for place in (0, 1))
            return ((below + above) / 2)[:, :, None]

    kind = LayerBudget if variant.of_layer else RowBudget
    first, last = variant.budgets
    shares = [first + (last - first) * layer / max(1, layers - 1) for layer in range(layers)]
    return [kind(budget * share, variant.eps) for share in shares]


def markdown(runs: Sequence[dict]) -> str:
    """A table with a line for each variant, over seeds and steps."""
    lines = ["| variant | liveness: median | first | last | divergence: median |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(run["variant"] for run in runs):
        found = [run["states"] for run in runs if run["variant"] == name]
        alive = [[state["liveness"] for state in states] for states in found]
        learned = statistics.median(state["learned"] for states in found for state in states)
        first, last = (statistics.median(values[place] for values in alive) for place in (0, -1))
        figures = (statistics.median(value for values in alive for value in values), first, last)
        lines.append(f"| {name} | {' | '.join(f'{figure:.2f}' for figure in figures)} | {learned:.2g} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
