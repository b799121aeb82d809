"""The speed of training and evaluation, their memory, and the time to the first step.

python -m benchmarks.throughput --output benchmarks/results/throughput.json

The variants take turns in one process, so that other load on the machine affects all of them. Each has a few steps that
represent its length distribution; a step's time is the median over rounds, and the throughput is computed from the sum
of these times. Both protocols run in this project's training step: "release" here means the authors' padding and order,
not their slower code. Peak memory and the time to the first step are measured in separate processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import run_sent_clas
from data.readers import read_set, task_folder
from data.tasks import CHOICE_TASKS, SENTENCE_TASKS
from models import methods
from training import flags
from training.flags import positive_int
from utils import InputError, Parser, keep_freed_memory, run_script, write_json

# Slow imports are made where they are needed: --help and argument errors do not have to wait for them.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from data.features import Features
    from training.evaluation import Run

LENGTHS = Path(__file__).parent / "lengths.json"  # task -> split -> tokens -> rows, from the official files
MAX_SEQ_LENGTH = 128


@dataclass(frozen=True)
class Variant:
    """One way to train.

    padded: pad every sequence to `MAX_SEQ_LENGTH`, in random batches; otherwise pad to the longest sequence of a batch,
        with batches of similar length.
    """

    method: str
    precision: str
    attention: str = "sdpa"
    protocol: str = "corrected"
    two_forwards: bool = False

    @property
    def padded(self) -> bool:
        return self.protocol == "release"

    def __str__(self) -> str:
        name = f"{self.method} {self.protocol} {self.precision} {self.attention}"
        return f"{name} two forwards" if self.two_forwards else name


BASELINE = Variant("asa", "fp32", "eager", "release")  # the release's way on CPU


def on_gpu(args: argparse.Namespace) -> bool:
    import torch

    return torch.cuda.is_available() and not args.no_cuda


def fast(args: argparse.Namespace) -> str:
    """The fastest precision; a CPU that only emulates bf16 is slower in it than in fp32."""
    from training.devices import has_bf16

    return "bf16" if on_gpu(args) or has_bf16() else "fp32"


def in_processes(best: str) -> list[Variant]:
    """The variants that are measured in their own process, ours first; `best` is the fastest precision."""
    return list(dict.fromkeys((Variant("asa", best), Variant("asa", "fp32"), Variant("naive", best), BASELINE)))


def variants(args: argparse.Namespace) -> list[Variant]:
    """Plain and ASA in each precision, ASA with eager attention and two forwards, the other methods, the release."""
    best = fast(args)
    precisions = dict.fromkeys(("fp32", best, *(("fp16",) if on_gpu(args) else ())))
    found = [Variant(method, precision) for precision in precisions for method in ("naive", "asa")]
    found += [Variant("asa", best, "eager"), Variant("asa", best, two_forwards=True), BASELINE]
    found += [Variant(method, best) for method in methods.METHODS if method not in ("naive", "asa")]
    if on_gpu(args):
        found.append(Variant("asa", "fp16", "eager", "release"))
    return found


@dataclass(frozen=True)
class Bench:
    """A task whose lengths are used: `choices` sequences per example, and the release's batch sizes.

    auto_class: the name of its head's class in transformers.
    steps: training steps per variant and round.
    eval_batches: batches of `eval_batch_size` rows evaluated in each round, with either padding.
    """

    name: str
    auto_class: str
    choices: int
    train_batch_size: int
    eval_batch_size: int
    steps: int
    eval_batches: int


BENCHES = (
    Bench("SST-2", "AutoModelForSequenceClassification", 1, 32, 128, 6, 6),
    Bench("DREAM", "AutoModelForMultipleChoice", 3, 16, 64, 2, 6),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the JSON file."""
    args = parse_arguments(argv)
    import torch

    from models.tokenizer import load_tokenizer
    from training.folder import describe

    args.threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(child(args)))
        return
    results = {"tasks": {}}
    # First, while this process is small: the child processes share the machine with it.
    if not args.quick:
        results["processes"] = [run_child(args, asdict(variant)) for variant in in_processes(fast(args))]
        results["processes"].append(run_child(args, asdict(Variant("asa", fast(args))) | {"default_malloc": True}))
        results["first_step_seconds"] = first_steps(args)
    if not on_gpu(args):
        keep_freed_memory()
    tokenizer = load_tokenizer(args.load_model_path, None, False, False)
    for bench in BENCHES:
        if bench.name in args.tasks:
            results["tasks"][bench.name] = measure(args, bench, tokenizer)
    run = make_run(args, BENCHES[0], BASELINE, tokenizer)
    facts = describe(args, run.accelerator, {})
    results = {"versions": facts["versions"], "device": facts["device"], "args": vars(args)} | results
    print(report(results))
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, results)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; `--quick` makes this a smoke test."""
    names = [bench.name for bench in BENCHES]
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--load_model_path", default="all-MiniLM-L6-v2", help="(default: %(default)s)")
    parser.add_argument("--data_dir", help="with folders SST-2 and DREAM (default: their lengths as stored)")
    parser.add_argument("--tasks", nargs="+", default=names, choices=names)
    parser.add_argument("--threads", type=positive_int, help="(default: PyTorch's default)")
    parser.add_argument("--rounds", type=positive_int, default=3, help="(default: %(default)s)")
    parser.add_argument("--output", help="JSON file")
    parser.add_argument("--quick", action="store_true", help="a smoke test: one step and a row or two of each")
    parser.add_argument("--no_cuda", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def measure(args: argparse.Namespace, bench: Bench, tokenizer: PreTrainedTokenizerBase) -> dict:
    """The times of training steps and of an evaluation, in seconds, for each variant, over one task's lengths."""
    from training import loop
    from training.evaluation import predict

    train_rows, eval_rows = (rows_of(args, bench, split, tokenizer) for split in ("train", "eval"))
    measured = (Variant("asa", fast(args)), BASELINE) if args.quick else variants(args)
    runs = {variant: make_run(args, bench, variant, tokenizer) for variant in measured}
    optimizers = {variant: make_optimizer(run) for variant, run in runs.items()}
    batches = {variant: steps_of(args, bench, variant, train_rows, run.head.collate) for variant, run in runs.items()}
    training_times = {variant: [[] for _ in batches[variant]] for variant in runs}
    for turn in range(args.rounds + 1):  # the first round is a warm-up
        for variant, run in runs.items():
            run.model.train()
            turns = zip(training_times[variant], batches[variant], strict=True)
            for times, batch in turns if turn else [next(turns)]:
                on_device = {name: tensor.to(run.accelerator.device) for name, tensor in batch.items()}
                seconds = timed(loop.optimize, run, [on_device], optimizers[variant])
                if turn:
                    times.append(seconds)
    found = {"rows": {"train": len(train_rows), "eval": len(eval_rows)}, "training": [], "evaluation": []}
    for variant, times in training_times.items():
        medians = [statistics.median(step) for step in times]
        widths = [batch["input_ids"].shape[-1] for batch in batches[variant]]
        per_second = bench.train_batch_size * len(medians) / sum(medians)
        found["training"].append(
            asdict(variant) | {"widths": widths, "step_seconds": medians, "examples_per_second": per_second}
        )

    evaluated = {"ours": Variant("asa", fast(args)), "release": BASELINE}
    evaluation_times = {name: [] for name in evaluated}
    for _ in range(1 if args.quick else max(2, args.rounds)):
        for name, variant in evaluated.items():
            evaluation_times[name].append(timed(predict, runs[variant], eval_rows))
    for name, times in evaluation_times.items():
        per_second = len(eval_rows) / statistics.median(times)
        found["evaluation"].append(
            {
                "way": name,
                "precision": evaluated[name].precision,
                "seconds": times,
                "examples_per_second": per_second,
            }
        )
    return found


def rows_of(args: argparse.Namespace, bench: Bench, split: str, tokenizer: PreTrainedTokenizerBase) -> Features:
    """A sample of a task's rows: from its files if they exist, else random tokens with the stored lengths."""
    from data.features import Features, choice_features, sentence_features

    random = np.random.default_rng(0)
    wanted = {"train": 50 * bench.train_batch_size, "eval": bench.eval_batches * bench.eval_batch_size}[split]
    if args.quick:
        wanted = {"train": bench.train_batch_size, "eval": 2}[split]
    if args.data_dir is not None:
        task = (SENTENCE_TASKS | CHOICE_TASKS)[bench.name]
        data_set = task.train if split == "train" else next(iter(task.dev.values()))
        examples = read_set(task, data_set, task_folder(args.data_dir, task.name), labelled=True)
        chosen = random.permutation(len(examples))[:wanted]
        make = sentence_features if bench.choices == 1 else choice_features
        return make([examples[row] for row in chosen], tokenizer, MAX_SEQ_LENGTH)
    histogram = json.loads(LENGTHS.read_text())[bench.name][split]
    counts = np.array(list(histogram.values()))
    lengths = random.choice([int(length) for length in histogram], wanted, p=counts / counts.sum()).tolist()
    ids = [random.integers(1, len(tokenizer), (bench.choices, length)).tolist() for length in lengths]
    if bench.choices == 1:
        ids = [row[0] for row in ids]
        ones = [[1] * len(row) for row in ids]
    else:
        ones = [[[1] * len(choice) for choice in row] for row in ids]
    labels = random.integers(0, 2, wanted).tolist()
    return Features({"input_ids": ids, "attention_mask": ones}, labels, lengths=lengths)


def steps_of(args: argparse.Namespace, bench: Bench, variant: Variant, rows: Features, collate) -> list[dict]:
    """The batches of a few steps, evenly spaced among all steps by their longest row; if padded, all are alike."""
    from data.batches import StepSampler

    sampler = StepSampler(rows.lengths, bench.train_batch_size, 0, group_by_length=not variant.padded)
    steps = [step for step in sampler if len(step) == bench.train_batch_size]
    steps.sort(key=lambda step: max(rows.lengths[row] for row in step))
    count = 1 if variant.padded or args.quick else bench.steps
    chosen = [steps[int((place + 0.5) * len(steps) / count)] for place in range(count)]
    return [collate([rows[row] for row in step]) for step in chosen]


def make_run(args: argparse.Namespace, bench: Bench, variant: Variant, tokenizer: PreTrainedTokenizerBase) -> Run:
    """A `Run` for the project's training step and evaluation; nothing is saved."""
    import torch
    import transformers
    from accelerate.state import AcceleratorState

    from data.batches import ChoiceCollator, padding
    from models.encoder_types import ENCODER_TYPES
    from models.encoders import load_config, load_pretrained
    from training.devices import make_accelerator
    from training.evaluation import Head, Run

    settings = flags.build_parser("", (), weight_decay=0.01).parse_args(["--task_name", bench.name])
    for precision in ("fp16", "bf16"):
        setattr(settings, precision, variant.precision == precision)
    settings.no_cuda, settings.protocol, settings.pad_to_max_length = args.no_cuda, variant.protocol, variant.padded
    settings.learning_rate, settings.eval_batch_size = 2e-5, bench.eval_batch_size
    settings.max_seq_length = MAX_SEQ_LENGTH
    torch.manual_seed(0)
    changes = {"num_labels": 2} if bench.choices == 1 else {}
    config = load_config(args.load_model_path, None, None, **changes)
    auto_class = getattr(transformers, bench.auto_class)
    has_sdpa = "sdpa" in ENCODER_TYPES[config.model_type].attention
    backbone = load_pretrained(
        auto_class, args.load_model_path, config, None, variant.attention if has_sdpa else "eager"
    )
    model = methods.build(variant.method, backbone, settings)
    if variant.method == "asa":
        model.one_forward = not variant.two_forwards
    AcceleratorState._reset_state(reset_partial_state=True)  # it would keep the previous variant's precision
    accelerator = make_accelerator(settings)
    collator = transformers.DataCollatorWithPadding if bench.choices == 1 else ChoiceCollator
    head = Head(auto_class, collator(tokenizer, **padding(settings)), score=None, write=None)
    return Run(settings, head, accelerator, accelerator.prepare(model), tokenizer, folder=None)


def make_optimizer(run: Run):
    import torch

    from training.optimizer import parameter_groups

    groups = parameter_groups(run.model, run.args.weight_decay)
    return run.accelerator.prepare(torch.optim.AdamW(groups, lr=run.args.learning_rate, fused=True))


def timed(function, *arguments) -> float:
    """The seconds that a call takes, until the device has finished."""
    import torch

    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    started = time.perf_counter()
    function(*arguments)
    synchronize()
    return time.perf_counter() - started


def run_child(args: argparse.Namespace, job: dict) -> dict:
    """The result of `child`, run in its own process."""
    flags = ["--load_model_path", args.load_model_path, "--threads", str(args.threads), "--child", json.dumps(job)]
    flags += ["--no_cuda"] if args.no_cuda else []
    flags += ["--data_dir", args.data_dir] if args.data_dir else []
    command = [sys.executable, "-m", "benchmarks.throughput", *flags]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"a measuring process failed: {done.stderr.strip()[-500:]}")
    return job | json.loads(done.stdout.splitlines()[-1])


def child(args: argparse.Namespace) -> dict:
    """Peak memory and median seconds of SST-2 training steps; or, for a job with `argv`, the time to a first step."""

    from models.tokenizer import load_tokenizer
    from training import loop

    job = json.loads(args.child)
    if "argv" in job:
        return first_step(job["argv"], job["started"])
    default_malloc = job.pop("default_malloc", False)
    if not default_malloc and not on_gpu(args):
        keep_freed_memory()
    variant, bench = Variant(**job), BENCHES[0]
    tokenizer = load_tokenizer(args.load_model_path, None, False, False)
    run = make_run(args, bench, variant, tokenizer)
    optimizer = make_optimizer(run)
    batches = steps_of(args, bench, variant, rows_of(args, bench, "train", tokenizer), run.head.collate)
    run.model.train()
    times = []
    for _ in range(3):
        for batch in batches:
            on_device = {name: tensor.to(run.accelerator.device) for name, tensor in batch.items()}
            times.append(timed(loop.optimize, run, [on_device], optimizer))
    return {"peak_megabytes": peak_megabytes(args), "median_step_seconds": statistics.median(times[len(batches) :])}


def peak_megabytes(args: argparse.Namespace) -> float:
    """This process's peak memory: on the GPU if it uses one."""
    import torch

    if on_gpu(args):
        return torch.cuda.max_memory_allocated() / 2**20
    return resident_megabytes()


def resident_megabytes() -> float:
    """The largest resident set of this process, including mapped files."""
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def first_steps(args: argparse.Namespace) -> dict[str, float]:
    """Seconds from the start of `run_sent_clas.py` on SST-2 to the end of its first step; empty without the files.

    `cold` has no token cache; `from cache` uses the one that the previous start made.
    """
    if args.data_dir is None:
        return {}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        kept = ["--token_cache_dir", f"{folder}/cache"]
        for state, flags in (("cold", ["--no_token_cache"]), ("made", kept), ("from cache", kept)):
            argv = ["--do_train", "--task_name", "SST-2", "--data_dir", str(Path(args.data_dir).resolve())]
            argv += ["--load_model_path", args.load_model_path, "--output_dir", f"{folder}/{state}", *flags]
            argv += ["--bf16"] if fast(args) == "bf16" else []
            argv += ["--max_seq_length", str(MAX_SEQ_LENGTH), *(["--no_cuda"] if args.no_cuda else [])]
            found[state] = run_child(args, {"argv": argv, "started": time.time()})["seconds"]
    return {state: found[state] for state in ("cold", "from cache")}


def first_step(argv: list[str], started: float) -> dict[str, float]:
    """Run the sentence script up to the end of its first optimizer step."""
    from data import cache
    from training import loop

    cache.CACHED_FROM = 0  # SST-2 is slightly below the size for caching
    step = loop.optimize

    def only_step(*arguments):
        timed(step, *arguments)
        print(json.dumps({"seconds": time.time() - started}), flush=True)
        os._exit(0)  # keep nothing of this run

    loop.optimize = only_step
    run_sent_clas.main(argv)
    raise AssertionError("the script took no step")


def report(results: dict) -> str:
    """The tables: the measurements, and their ratios to the release's protocol and to plain fine-tuning."""
    lines = [results["device"], ""]
    for name, task in results["tasks"].items():
        lines += [f"| {name} | ms a step | examples/s | x release (fp32) | step / plain |", "|---|---|---|---|---|"]
        rows = {Variant(**{field: row[field] for field in asdict(BASELINE)}): row for row in task["training"]}
        for variant, row in rows.items():
            milliseconds = 1000 * statistics.mean(row["step_seconds"])
            times = row["examples_per_second"] / rows[BASELINE]["examples_per_second"]
            plain = rows.get(Variant("naive", variant.precision))
            ratio = (
                f"{plain['examples_per_second'] / row['examples_per_second']:.2f}"
                if plain and not variant.padded
                else ""
            )
            lines.append(
                f"| {variant} | {milliseconds:.0f} | {row['examples_per_second']:.1f} | {times:.1f} | {ratio} |"
            )
        ours, theirs = (row["examples_per_second"] for row in task["evaluation"])
        lines += [
            f"| evaluation, {task['evaluation'][0]['precision']}, sorted | | {ours:.0f} | {ours / theirs:.1f} | |"
        ]
        lines += [f"| evaluation, fp32, padded | | {theirs:.0f} | 1.0 | |", ""]
    if "processes" in results:
        lines += ["| SST-2, a process each | peak MB | median ms a step |", "|---|---|---|"]
        for row in results["processes"]:
            variant = Variant(**{field: row[field] for field in asdict(BASELINE)})
            note = " default malloc" if row.get("default_malloc") else ""
            lines.append(f"| {variant}{note} | {row['peak_megabytes']:.0f} | {1000 * row['median_step_seconds']:.0f} |")
        seconds = results["first_step_seconds"].items()
        lines += ["", *(f"first step on SST-2, {state}: {value:.1f} s" for state, value in seconds)]
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
