"""The cost of a masked language modelling step with each method, as a ratio to plain training.

python -m benchmarks.pretraining --threads 2 --output benchmarks/results/pretraining.json

The rows are random tokens, all of full length, as in packed text. The variants take turns step by step, so that other
load on the machine affects all of them, and each figure is the median over the steps. "every position" is the stock
model, whose head predicts all tokens of a row, not only the masked ones. The memory that autograd keeps is counted, not
measured.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.throughput import make_optimizer, timed
from models import methods
from training import arguments
from training.flags import positive_int
from utils import Parser, keep_freed_memory, run_script, write_json

# Slow imports are made where they are needed: --help and argument errors do not have to wait for them.
if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from data.masking import MaskedRows
    from training.evaluation import Run

STOCK = "naive, every position"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and write the JSON file."""
    args = parse_arguments(argv)
    import torch

    from models.tokenizer import load_tokenizer
    from training import loop
    from training.folder import describe

    args.threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(args.threads)
    if not torch.cuda.is_available() or args.no_cuda:
        keep_freed_memory()
    tokenizer = load_tokenizer(args.load_model_path, None, False, False)
    rows = random_rows(args, tokenizer)
    runs = {variant: make_run(args, variant, tokenizer) for variant in (*args.methods, STOCK)}
    optimizers = {variant: make_optimizer(run) for variant, run in runs.items()}
    seconds: dict[str, list[float]] = {variant: [] for variant in runs}
    for step in range(args.steps + 1):  # the first step is a warm-up
        numbers = range(step * args.train_batch_size, (step + 1) * args.train_batch_size)
        for variant, run in runs.items():
            batch = run.head.collate([rows[number] for number in numbers])
            if variant == STOCK:
                batch = every_position(batch)
            on_device = {name: tensor.to(run.accelerator.device) for name, tensor in batch.items()}
            run.model.train()
            taken = timed(loop.optimize, run, [on_device], optimizers[variant])
            if step:
                seconds[variant].append(taken)
    facts = describe(args, next(iter(runs.values())).accelerator, {})
    found = {
        variant: {
            "step_seconds": statistics.median(taken),
            "to_naive": statistics.median(ours / plain for ours, plain in zip(taken, seconds["naive"], strict=True)),
            "kept_vocabulary_numbers": kept(runs[variant], batch_of(runs[variant], rows, args, variant)),
        }
        for variant, taken in seconds.items()
    }
    results = {"versions": facts["versions"], "device": facts["device"], "args": vars(args), "variants": found}
    print(report(results))
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, results)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    known = [name for name, method in methods.METHODS.items() if method.of_words]
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--load_model_path", default="all-MiniLM-L6-v2", help="(default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=known, choices=known)
    parser.add_argument("--train_batch_size", type=positive_int, default=32)
    parser.add_argument("--max_seq_length", type=positive_int, default=128)
    parser.add_argument("--steps", type=positive_int, default=20, help="steps of each variant (default: %(default)s)")
    parser.add_argument("--threads", type=positive_int, help="(default: PyTorch's default)")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--no_cuda", action="store_true")
    parser.add_argument("--output", help="JSON file")
    args = parser.parse_args(argv)
    args.methods = list(dict.fromkeys(["naive", *args.methods]))
    return args


def random_rows(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> MaskedRows:
    from data.features import Features
    from data.masking import MaskedRows, Masking

    random = np.random.default_rng(0)
    masking = Masking.of(tokenizer, 0.15, whole_words=False)
    count, length = args.train_batch_size * (args.steps + 1), args.max_seq_length - 2
    drawn = random.choice(masking.vocabulary, (count, length)).tolist()
    ids = [[tokenizer.cls_token_id, *row, tokenizer.sep_token_id] for row in drawn]
    return MaskedRows(Features({"input_ids": ids}), masking, seed=0)


def make_run(args: argparse.Namespace, variant: str, tokenizer: PreTrainedTokenizerBase) -> Run:
    """A `Run` for the project's training step; nothing is saved."""
    import torch
    from accelerate.state import AcceleratorState
    from transformers import AutoModelForMaskedLM

    from data.masking import MaskedCollator
    from models.encoders import attention_implementation, load_config, load_pretrained
    from models.masked_words import predict_given_words
    from training.devices import make_accelerator
    from training.evaluation import Head, Run, of_masked_words

    flags = ["--do_train", "--train_file", "none.txt", "--method", "naive" if variant == STOCK else variant]
    settings = arguments.of_script("run_mlm", flags)
    settings.no_cuda, settings.bf16 = args.no_cuda, args.bf16
    torch.manual_seed(0)
    config = load_config(args.load_model_path, None, None)
    on_cpu = args.no_cuda or not torch.cuda.is_available()
    attention = attention_implementation(config, None, True, on_cpu)
    backbone = load_pretrained(AutoModelForMaskedLM, args.load_model_path, config, None, attention)
    if variant != STOCK:
        predict_given_words(backbone)
    model = methods.build(settings.method, backbone, settings)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = make_accelerator(settings)
    collate = MaskedCollator(tokenizer, padding="longest")
    head = Head(AutoModelForMaskedLM, collate, score=None, write=None, summary=of_masked_words)
    return Run(settings, head, accelerator, accelerator.prepare(model), tokenizer, folder=None)


def batch_of(run: Run, rows: MaskedRows, args: argparse.Namespace, variant: str) -> dict[str, torch.Tensor]:
    batch = run.head.collate([rows[number] for number in range(args.train_batch_size)])
    return every_position(batch) if variant == STOCK else batch


def every_position(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch for a stock model: a label, or none, at every position; all rows have equally many masked words."""
    import torch

    labels = torch.full_like(batch["input_ids"], -100).scatter(1, batch["words"], batch["labels"])
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


def kept(run: Run, batch: dict[str, torch.Tensor]) -> int:
    """How many numbers autograd keeps in tensors with one value per word of the vocabulary."""
    import torch

    model = run.accelerator.unwrap_model(run.model)
    vocabulary = getattr(model, "backbone", model).config.vocab_size
    sizes: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[-1:] == (vocabulary,) and tensor.untyped_storage().data_ptr() not in weights:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    on_device = {name: tensor.to(run.accelerator.device) for name, tensor in batch.items()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run.model.train()(**on_device)
    assert output.loss is not None
    return sum(sizes.values())


def report(results: dict) -> str:
    """The table."""
    lines = [
        results["device"],
        "",
        "| method | ms a step | relative to naive | kept in vocabulary-sized tensors, millions of numbers |",
    ]
    lines.append("|---|---|---|---|")
    for variant, row in results["variants"].items():
        millions = row["kept_vocabulary_numbers"] / 1e6
        lines.append(f"| {variant} | {1000 * row['step_seconds']:.0f} | {row['to_naive']:.2f} | {millions:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
