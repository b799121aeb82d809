"""Why ASA's masks open: the gradients that reach each layer's adversary, measured during a short training run.

python -m benchmarks.adversary --data_dir data/sets --output benchmarks/results/adversary_minilm.json

Each run is the beginning of fine-tuning with the task's recipe, in float32. At some steps, measurements are taken on
other batches of the training set, with dropout as in training unless `--no_dropout` is given; they do not affect the
run. docs/why_the_masks_open.md explains the figures. If the output file exists, only missing runs are added.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.readers import read_set, task_folder
from data.task_kinds import Recipe, SentenceTask
from data.tasks import SENTENCE_TASKS, find_task
from training.flags import natural, positive_int, share
from utils import InputError, Parser, finite, keep_freed_memory, log, run_script, write_json

# Slow imports are made where they are needed: --help and argument errors do not have to wait for them.
if TYPE_CHECKING:
    import torch
    from transformers import DataCollatorWithPadding

    from data.batches import StepSampler
    from data.features import Features
    from models.asa import AsaModel, AsaOutput

OPEN = 0.9  # from this keep rate on, the masks of a layer count as open
OTHER_EPOCH = 10**6  # the sampler's epoch from which the measurement batches are drawn
# Arguments that must be the same for all runs of a file, and what a file without the newer ones was measured with.
SHARED = ("task_name", "load_model_path", "max_seq_length", "no_dropout", "mask_draws")
BEFORE = {"no_dropout": False, "mask_draws": 1}


@dataclass(frozen=True)
class Setting:
    """One run. budget: the row budget, which has no tau; None for ASA."""

    tau: float | None
    budget: float | None
    learning_rate: float
    seed: int


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, print a Markdown table, and write the figures as JSON to `--output` after each run."""
    args = parse_arguments(argv)
    from training.versions import versions

    keep_freed_memory()
    task = find_task(args.task_name, SENTENCE_TASKS)
    recipe = task.recipe or Recipe(train_examples=0)
    shared = {name: getattr(args, name) for name in SHARED}
    runs = recorded(args.output, shared)
    rules = [(tau, None) for tau in args.taus] + [(None, budget) for budget in args.budgets]
    rates = args.learning_rates or [recipe.learning_rate]
    wanted = [Setting(*rule, rate, seed) for rule, rate, seed in itertools.product(rules, rates, args.seeds)]
    features, collate = task_data(args, task)
    for setting in wanted:
        if there := next((run for run in runs if run["setting"] == vars(setting)), None):
            if (there["measured_on"], [state["step"] for state in there["states"]]) != (args.batches, _measured(args)):
                raise InputError(
                    f"--output {args.output}: {setting} has other --steps, --every or --batches: give another file"
                )
            log.info(f"{setting}: recorded already")
            continue
        log.info(f"{setting}")
        found = follow(args, task, recipe, setting, features, collate)
        runs.append({"setting": vars(setting), "measured_on": args.batches, "versions": versions(), **found})
        if args.output:
            write_json(args.output, {"args": shared, "runs": runs})
    print(markdown(runs))
    if any(run["opened"] for run in runs):
        print()
        print(openings(runs, recipe, len(features)))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, seeds=[42], steps=200, every=50)
    parser.add_argument("--taus", type=numbers, default=numbers("0.5,0.1,0.01"), help="(default: 0.5,0.1,0.01)")
    parser.add_argument("--budgets", type=shares, default=[], help="row budgets, such as 0.1 (default: none)")
    parser.add_argument("--learning_rates", type=numbers, help="(default: the recipe's)")
    parser.add_argument("--no_dropout", action="store_true", help="measure without dropout; training keeps its own")
    parser.add_argument(
        "--mask_draws", type=positive_int, default=1, help="draws of random masks for liveness (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.batches < 2:
        raise InputError("--batches: two at the least, as the gradients of different batches are compared")
    return args


def make_parser(doc: str | None, seeds: Sequence[int], steps: int, every: int) -> Parser:
    """The flags of a program that measures during short training runs."""
    parser = Parser(description=(doc or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--task_name", default="CoLA", help="a sentence task (default: %(default)s)")
    parser.add_argument("--data_dir", default="data/sets")
    parser.add_argument("--load_model_path", default="all-MiniLM-L6-v2")
    known = ",".join(map(str, seeds))
    parser.add_argument("--seeds", type=whole_numbers, default=seeds, help=f"(default: {known})")
    parser.add_argument("--steps", type=natural, default=steps, help="training steps (default: %(default)s)")
    parser.add_argument(
        "--every", type=positive_int, default=every, help="steps between measurements (default: %(default)s)"
    )
    parser.add_argument("--batches", type=positive_int, default=4, help="batches to measure on (default: %(default)s)")
    parser.add_argument("--max_seq_length", type=positive_int, default=128, help="(default: %(default)s)")
    parser.add_argument("--output", help="a JSON file to write, or to add runs to")
    return parser


def numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",") if word]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, as 0.5,0.1") from None


def shares(text: str) -> list[float]:
    return [share(word) for word in text.split(",") if word]


def whole_numbers(text: str) -> list[int]:
    found = numbers(text)
    if not found or any(not number.is_integer() or number < 0 for number in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers from 0, as 42,13")
    return [int(number) for number in found]


def recorded(output: str | None, shared: dict) -> list[dict]:
    """The runs recorded in a file.

    Raises:
        InputError: it has runs with settings other than those given.
    """
    if output is None:
        return []
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    if not Path(output).exists():
        return []
    try:
        found = json.loads(Path(output).read_text(encoding="utf-8"))
        had, runs = found["args"], found["runs"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"--output {output}: it is not a file of this program: give another one") from None
    for name, value in shared.items():
        if (before := had.get(name, BEFORE.get(name))) != value:
            raise InputError(f"--output {output}: its runs have --{name} {before}: give another file")
    return runs


def task_data(args: argparse.Namespace, task: SentenceTask) -> tuple[Features, DataCollatorWithPadding]:
    from transformers import DataCollatorWithPadding

    from data.features import sentence_features
    from models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(args.load_model_path, None, lower_case=False, slow=False)
    assert task.train is not None
    examples = read_set(task, task.train, task_folder(args.data_dir, task.name), labelled=True)
    return sentence_features(examples, tokenizer, args.max_seq_length), DataCollatorWithPadding(tokenizer)


def follow(
    args: argparse.Namespace, task: SentenceTask, recipe: Recipe, setting: Setting, features: Features, collate
) -> dict:
    """Train with a setting.

    Returns:
        `states`, the measurements at some steps; `keep_rate`, for every step and layer; and `opened`.
    """
    model, device = begin(args, task, setting)
    measured_on = other_batches(args, recipe, setting.seed, features, collate, device)
    states, rates = [], []
    for step, output in enumerate(train(args, recipe, setting, model, features, collate)):
        if output is not None:
            rates.append(output.keep_rate.tolist())
        if step in _measured(args):
            model.train(not args.no_dropout)
            states.append({"step": step, **measure(model, measured_on, setting.seed, args.mask_draws)})
            model.train()
    rounded = [[round(rate, 4) for rate in each] for each in rates]
    return {"states": states, "keep_rate": rounded, "opened": opened(rates)}


def opened(rates: Sequence[Sequence[float]]) -> list[int | None]:
    """For each layer, the number of steps taken before the first whose masks were open; None if there is none.

    Args:
        rates: the keep rate of each layer, at each step.
    """
    return [next((step for step, rate in enumerate(layer) if rate >= OPEN), None) for layer in zip(*rates, strict=True)]


def _measured(args: argparse.Namespace) -> list[int]:
    """The steps after which measurements are taken."""
    return sorted({*range(0, args.steps, args.every), args.steps})


def begin(args: argparse.Namespace, task: SentenceTask, setting: Setting) -> tuple[AsaModel, torch.device]:
    """The model that a run begins with, and its device."""
    import torch
    from accelerate.utils import set_seed
    from transformers import AutoModelForSequenceClassification

    from models.asa import AsaModel
    from models.encoders import load_config, load_pretrained
    from models.heads import named_labels

    set_seed(setting.seed)
    config = load_config(args.load_model_path, None, None, **named_labels(task.labels))
    backbone = load_pretrained(AutoModelForSequenceClassification, args.load_model_path, config, None, "eager")
    model = AsaModel(backbone, tau=setting.tau or 0.0, one_forward=True, budget=setting.budget)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device).train(), device


def other_batches(args: argparse.Namespace, recipe: Recipe, seed: int, features: Features, collate, device) -> list:
    """Batches to measure on: from the training set, in a different order from training."""
    from data.batches import StepSampler

    sampler = StepSampler(features.lengths, recipe.train_batch_size, seed, group_by_length=True)
    sampler.epoch = OTHER_EPOCH
    chosen = itertools.islice(sampler.steps(), args.batches)
    return [collate([features[row] for row in rows]).to(device) for rows in chosen]


def train(
    args: argparse.Namespace,
    recipe: Recipe,
    setting: Setting,
    model: AsaModel,
    features: Features,
    collate,
    adversary_learning_rate: float | None = None,
) -> Iterator[AsaOutput | None]:
    """Train for `--steps` steps: yield None before the first step, then the model's output after each."""
    from transformers import get_scheduler

    from data.batches import StepSampler
    from training.optimizer import make_optimizer, parameter_groups

    sampler = StepSampler(features.lengths, recipe.train_batch_size, setting.seed, group_by_length=True)
    steps = recipe.num_train_epochs * len(sampler)
    groups = parameter_groups(model, recipe.weight_decay, adversary_learning_rate)
    optimizer = make_optimizer("adamw", groups, setting.learning_rate)
    scheduler = get_scheduler("linear", optimizer, int(steps * recipe.warmup_proportion), steps)
    device = next(model.parameters()).device
    yield None
    for rows in itertools.islice(_all_steps(sampler), args.steps):
        output = model(**collate([features[row] for row in rows]).to(device))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        yield output


def _all_steps(sampler: StepSampler) -> Iterator[list[int]]:
    for epoch in itertools.count():
        sampler.epoch = epoch
        yield from sampler.steps()


def measure(model: AsaModel, batches: Sequence[dict], seed: int, mask_draws: int = 1) -> dict:
    """The figures of a state: `liveness`, and `of_layer` for each layer. The random generators are restored.

    Args:
        mask_draws: how often the random masks are drawn. `liveness` divides by their mean divergence; with more than
            one, `liveness_of_draws` has the figure that each draw alone would give.
    """
    import torch
    from accelerate.utils import set_seed

    from models.liveness import divergences
    from training.state import random_states, restore_random_states

    device = batches[0]["labels"].device
    streams = random_states(device)
    set_seed(seed)
    taken = [gradients(model, dict(batch)) for batch in batches]
    generator = torch.Generator(device).manual_seed(seed)
    moved = [
        sum(len(batch["labels"]) * divergences(model, generator, **batch) for batch in batches)
        for _ in range(mask_draws)
    ]
    restore_random_states(streams, device)
    learned, random = torch.stack(moved).unbind(1)  # (draws,)
    layers = [of_layer([batch[layer] for batch in taken]) for layer in range(len(taken[0]))]
    found = {"liveness": (learned.mean() / random.mean()).item(), "layers": layers}
    return finite(found | ({"liveness_of_draws": (learned / random).tolist()} if mask_draws > 1 else {}))


def gradients(model: AsaModel, batch: dict) -> list[dict[str, torch.Tensor]]:
    """The gradients that reach each adversary on a batch, from the divergence and from the weighted penalty.

    Returns:
        For each layer: `divergence` and `penalty`, the gradients with respect to all of the adversary's weights as one
        vector; `bias` and `score`, the divergence's gradients with respect to the attention bias (B, L, L) and to the
        score; and what the adversary read, scored and masked: `read`, `scores`, `pairs`, `hidden`, `keep_rate`.
    """
    import torch

    from models.divergence import divergence

    labels, mask = batch.pop("labels"), batch["attention_mask"]
    read: list[torch.Tensor] = []
    made: list[tuple[torch.Tensor, torch.Tensor]] = []
    hooks = [each.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0])) for each in model.adversaries]
    clean = model.backbone(**batch).logits
    with model.adversarial_mode(mask) as masks:
        make = masks.bias

        def noting(score: torch.Tensor, incoming: torch.Tensor | None) -> torch.Tensor:
            made.append((score, make(score, incoming)))
            return made[-1][1]

        masks.bias = noting  # type: ignore[method-assign]
        masked = model.backbone(**batch).logits
    for hook in hooks:
        hook.remove()

    apart = divergence(model.config, clean, masked, labels)
    weights = [list(adversary.parameters()) for adversary in model.adversaries]
    scores, biases = zip(*made, strict=True)
    wanted = [*itertools.chain(*weights), *scores, *biases]
    found = iter(torch.autograd.grad(apart, wanted, retain_graph=True))
    of_divergence = [torch.cat([next(found).flatten() for _ in each]) for each in weights]
    of_scores, of_biases = ([next(found) for _ in made] for _ in range(2))
    penalty = model.tau**2 * torch.stack(masks.penalty).sum()
    if penalty.requires_grad and model.tau:
        found = iter(torch.autograd.grad(penalty, list(itertools.chain(*weights))))
        of_penalty = [torch.cat([next(found).flatten() for _ in each]) for each in weights]
    else:
        of_penalty = [torch.zeros_like(each) for each in of_divergence]
    real = mask.bool()
    pairs = real[:, None] & real[:, :, None]
    return [
        {
            "divergence": of_divergence[layer],
            "penalty": of_penalty[layer],
            "score": of_scores[layer],
            "bias": of_biases[layer],
            "read": read[layer][real],
            "scores": scores[layer].detach()[pairs],
            "pairs": pairs,
            "hidden": (biases[layer].detach() < 0) & pairs,
            "keep_rate": masks.keep_rate[layer],
        }
        for layer in range(len(made))
    ]


def of_layer(batches: Sequence[dict[str, torch.Tensor]]) -> dict[str, float]:
    """The figures of a layer, over batches.

    divergence, penalty: norms of the gradients with respect to the adversary's weights, means over batches; `ratio` is
        their ratio. `divergence_cosine`, `penalty_cosine`: mean cosine between different batches.
    rows_reached: share of the real query rows with any gradient of the divergence; `first_row`: share of the squared
        gradient in the first token's rows.
    zeros_hidden, zeros_kept: in these rows, share of masked and of kept pairs whose gradient is exactly 0.
    row_sum: how much of the attention bias's gradient remains when it is summed over each row: the absolute sums
        divided by the absolute values.
    score_mean, score_spread: mean and spread of the scores of the real pairs; `shared`: share of the squared length of
        the adversary's input that is due to the mean over tokens.
    """
    import torch
    from torch.nn import functional as F

    hidden, kept = ([], [])
    reached, rows, sums, sizes, first, squares = (0.0,) * 6
    for batch in batches:
        given, pairs = batch["score"] * batch["pairs"], batch["pairs"]
        row = (given != 0).any(-1)  # (B, L)
        reached, rows = reached + row.sum().item(), rows + pairs.any(-1).sum().item()
        hidden.append(given[batch["hidden"] & row[..., None]] == 0)
        kept.append(given[pairs & ~batch["hidden"] & row[..., None]] == 0)
        bias = (batch["bias"] * pairs).double()
        sums, sizes = sums + bias.sum(-1).abs().sum().item(), sizes + bias.abs().sum().item()
        first, squares = first + (bias[:, 0] ** 2).sum().item(), squares + (bias**2).sum().item()
    scores, read = torch.cat([batch["scores"] for batch in batches]), torch.cat([batch["read"] for batch in batches])
    found = {}
    for name in ("divergence", "penalty"):
        vectors = [batch[name] for batch in batches]
        found[name] = sum(vector.norm().item() for vector in vectors) / len(vectors)
        cosines = [F.cosine_similarity(a, b, dim=0).item() for a, b in itertools.combinations(vectors, 2)]
        found[f"{name}_cosine"] = sum(cosines) / len(cosines) if found[name] else float("nan")
    return found | {
        "ratio": _over(found["penalty"], found["divergence"]),
        "zeros_hidden": _share(hidden),
        "zeros_kept": _share(kept),
        "rows_reached": _over(reached, rows),
        "first_row": _over(first, squares),
        "row_sum": _over(sums, sizes),
        "score_mean": scores.mean().item(),
        "score_spread": scores.std().item(),
        "shared": _over(read.mean(0).square().sum().item(), read.square().sum(1).mean().item()),
        "keep_rate": sum(batch["keep_rate"].item() for batch in batches) / len(batches),
    }


def _over(above: float, below: float) -> float:
    return above / below if below else float("nan")


def _share(parts: Sequence[torch.Tensor]) -> float:
    """The share of true elements; nan if there are no elements."""
    import torch

    return torch.cat(list(parts)).float().mean().item()


def markdown(runs: Sequence[dict]) -> str:
    """A table with a line for each run and state, which gives the range over its layers."""
    columns = ("ratio", "penalty_cosine", "divergence_cosine", "zeros_hidden", "score_spread", "keep_rate")
    heads = ["run", "step", *(name.replace("_", " ") for name in columns), "liveness"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for run in runs:
        for state in run["states"]:
            cells = [_range([layer[column] for layer in state["layers"]]) for column in columns]
            alive = "" if state["liveness"] is None else f"{state['liveness']:.2f}"
            lines.append(f"| {' | '.join([_name(run), str(state['step']), *cells, alive])} |")
    return "\n".join(lines)


def openings(runs: Sequence[dict], recipe: Recipe, rows: int) -> str:
    """A table of when each layer opens: the step, and in brackets the sum of the learning rates up to then.

    Args:
        rows: number of training examples.
    """
    numbers = range(max(len(run["opened"]) for run in runs))
    heads = ["open from step", *(f"layer {number}" for number in numbers)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for run in runs:
        rate = run["setting"]["learning_rate"]
        cells = [
            "" if step is None else f"{step} ({learning_rate_sum(rate, step, recipe, rows):.2e})"
            for step in run["opened"]
        ]
        lines.append(f"| {' | '.join([_name(run), *cells])} |")
    return "\n".join(lines)


def learning_rate_sum(rate: float, steps: int, recipe: Recipe, rows: int) -> float:
    """The sum of the learning rates of the first `steps` steps, under linear warm-up and decay."""
    total = recipe.num_train_epochs * math.ceil(rows / recipe.train_batch_size)
    warmup = int(total * recipe.warmup_proportion)
    return rate * sum(
        step / warmup if step < warmup else max(0, total - step) / (total - warmup) for step in range(steps)
    )


def _name(run: dict) -> str:
    setting = run["setting"]
    rule = f"budget {setting['budget']:g}" if setting["budget"] is not None else f"tau {setting['tau']:g}"
    return f"{rule}, rate {setting['learning_rate']:g}, seed {setting['seed']}"


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.3g} to {max(known):.3g}" if known else ""


if __name__ == "__main__":
    run_script(main)
