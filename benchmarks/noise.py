"""What the divergences of R3F and SMART measure: the noise, rounding, or dropout.

python -m benchmarks.noise --output benchmarks/results/noise.json

The model is the pretrained encoder with a new head, as at the first step of training, and the sentences are those of
the DEMO task. Each figure is a mean over the same batches, with the same random draws. "bf16 throughout" turns off the
rule that a model without dropout computes in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.demo import make_rows
from training.flags import positive_int
from utils import Parser, run_script, write_json

if TYPE_CHECKING:
    import torch

# Method -> its class in models/baselines.py, its settings, and the parameters that set the size of its noise.
SETTINGS = {
    "r3f": ("R3F", {"weight": 1.0, "noise": "uniform"}, ("eps",)),
    "smart": (
        "Smart",
        {"weight": 1.0, "steps": 1, "radius": 0.0, "bregman": 0.0, "momentum": 0.999, "early_momentum": 0.99},
        ("noise", "step_size"),
    ),
}
# Sizes of the noise: as published, and none.
NOISES = {"r3f": ((1e-5,), (0.0,)), "smart": ((1e-5, 1e-3), (0.0, 0.0))}
LENGTH = 64  # tokens at most
PRECISIONS = ("fp32", "bf16", "bf16 throughout")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a Markdown table, and write the figures as JSON to `--output`."""
    parser = Parser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--load_model_path", default="all-MiniLM-L6-v2")
    parser.add_argument("--batches", type=positive_int, default=5, help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="(default: %(default)s)")
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args(argv)
    from training.versions import versions  # takes seconds, like all imports inside functions here

    batches = make_batches(args)
    print(f"| method | dropout | noise | {' | '.join(PRECISIONS)} |\n|---|---|---{'|---' * len(PRECISIONS)}|")
    rows = []
    for method, noises in NOISES.items():
        for dropout in (False, True):
            for noise in noises:
                found = {
                    precision: measure(args, batches, method, dropout, noise, precision) for precision in PRECISIONS
                }
                rows.append({"method": method, "dropout": dropout, "noise": noise, **found})
                words = method, "yes" if dropout else "no", "as published" if any(noise) else "none"
                print(f"| {' | '.join((*words, *(f'{figure:.3g}' for figure in found.values())))} |")
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        settings = {name: value for name, value in vars(args).items() if name != "output"}
        write_json(args.output, {"args": settings, "versions": versions(), "rows": rows})


def make_batches(args: argparse.Namespace) -> list[dict[str, torch.Tensor]]:
    """Sentences of the DEMO task, with their labels."""
    import torch

    from models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(args.load_model_path, None, lower_case=True, slow=False)
    rows = make_rows("train", args.batches * args.batch_size)
    batches = []
    for start in range(0, len(rows), args.batch_size):
        texts, labels = zip(*rows[start : start + args.batch_size], strict=True)
        encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        batches.append({**encoded, "labels": torch.tensor(labels)})
    return batches


def measure(
    args: argparse.Namespace, batches: list[dict], method: str, dropout: bool, noise: tuple[float, ...], precision: str
) -> float:
    """The mean divergence of a method on the batches."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from models import baselines
    from models.encoders import load_config, load_pretrained

    torch.manual_seed(0)
    name = args.load_model_path
    config = load_config(name, None, None, num_labels=2)
    backbone = load_pretrained(AutoModelForSequenceClassification, name, config, None, "eager")
    for each in backbone.modules():  # whatever the type calls it in its configuration
        if isinstance(each, torch.nn.Dropout) and not dropout:
            each.p = 0.0
    kind, settings, sizes = SETTINGS[method]
    module = getattr(baselines, kind)
    model = module(backbone, **settings, **dict(zip(sizes, noise, strict=True))).train()
    forward = baselines.EmbeddingNoise.forward if precision == "bf16 throughout" else module.forward
    found = []
    for number, batch in enumerate(batches):
        torch.manual_seed(number)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"):
            found.append(forward(model, **batch).divergence.item())
    return sum(found) / len(found)


if __name__ == "__main__":
    run_script(main)
