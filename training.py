"""The one train / evaluate / predict loop, on Hugging Face Accelerate."""

import argparse
import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, get_scheduler

from data.batches import StepSampler, collate_parts
from data.features import Features
from data.readers import Splits, read_splits
from data.tasks import Task
from models import objectives
from models.asa import IGNORED_LABEL
from models.checkpoints import export, load_release_checkpoint, load_saved, save_checkpoint
from models.encoders import fit_together, load_config, load_pretrained, load_tokenizer
from run_folder import RunFolder, describe
from utils import InputError, keep_freed_memory, log


@dataclass
class Head:
    """What differs between the scripts.

    auto_class: the transformers class that makes the model.
    collate: rows -> padded batch.
    score: (features, logits per row) -> metric name -> value; the first is the primary one, and more is better.
    write: (path, features, logits per row) -> writes a predictions file.
    loss_name: what the epoch lines call the training loss.
    """

    auto_class: type
    collate: Callable[[list[dict]], dict[str, torch.Tensor]]
    score: Callable[[Features, list[np.ndarray]], dict[str, float]]
    write: Callable[[Path, Features, list[np.ndarray]], None]
    loss_name: str = "train loss"


@dataclass
class Run:
    """What training, evaluation and prediction share."""

    args: argparse.Namespace
    head: Head
    accelerator: Accelerator
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    folder: RunFolder


def prepare(
    args: argparse.Namespace, task: Task, config_changes: dict, **tokenizer_settings
) -> tuple[Splits, PreTrainedConfig, PreTrainedTokenizerBase]:
    """The examples that the arguments ask for, and the encoder's configuration and tokenizer; writes nothing.

    Raises:
        InputError: the data, the encoder or the output folder cannot be used.
    """
    RunFolder(args.output_dir).check(args, task)
    examples = read_splits(task, args)
    config = load_config(args.load_model_path, args.model_type, args.cache_dir, **config_changes)
    tokenizer = load_tokenizer(
        args.load_model_path, args.cache_dir, args.do_lower_case, args.use_slow_tokenizer, **tokenizer_settings
    )
    fit_together(args.load_model_path, config, tokenizer)
    return examples, config, tokenizer


def execute(
    args: argparse.Namespace,
    task: Task,
    head: Head,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    features: Splits,
) -> None:
    """Train, evaluate and test as the arguments say; nothing is written before the model stands.

    Raises:
        InputError: the weights cannot be used, or the output folder cannot.
    """
    folder = RunFolder(args.output_dir)
    unseen = {split: rows.report for split, rows in features.primary().items()}
    for split, report in unseen.items():
        log.info(
            f"{split}: " + ", ".join(f"{name.replace('_', ' ')} {round(value, 4)}" for name, value in report.items())
        )
    set_seed(args.seed)
    if args.do_train:
        backbone = load_pretrained(
            head.auto_class, args.load_model_path, config, args.cache_dir, args.attn_implementation
        )
        model = objectives.build(args.method, backbone, args)
    else:
        model = load_saved(head.auto_class, args.test_model_file, config, args.attn_implementation)
    accelerator = make_accelerator(args)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    run = Run(args, head, accelerator, accelerator.prepare(model), tokenizer, folder)
    folder.open(args, task)
    record = describe(args, accelerator, features.counts()) | {"unseen": unseen}

    if args.do_train:
        best = train(run, features.train, features.eval, record)
        log.info(f"best: epoch {best['epoch']}, saved as {folder.best}")
    elif args.do_eval:
        scores = evaluate(run, features.eval)
        folder.write_evaluation(record | scores)
        print(f"eval score = {scores['eval_score']:.2f} | eval loss = {scores['eval_loss']:.3f}")
    for name, test_features in features.test.items():
        path = folder.submission(task.submissions[name].submission)
        head.write(path, test_features, predict(run, test_features)[0])
        log.info(f"predictions: {path}")


def make_accelerator(args: argparse.Namespace) -> Accelerator:
    """The device and precision that the arguments ask for; says so where the machine has something less."""
    on_gpu = torch.cuda.is_available() and not args.no_cuda
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else "no"
    if precision == "fp16" and not on_gpu:
        precision = "bf16" if _has_bf16() else "no"
        log.info(f"--fp16 needs a GPU: going on in {'bf16' if precision == 'bf16' else 'fp32'} on the processor")
    tracking = {} if args.report_to == "none" else {"log_with": args.report_to, "project_dir": args.output_dir}
    return Accelerator(cpu=args.no_cuda, mixed_precision=precision, **tracking)


def train(run: Run, features: Features, eval_sets: dict[str, Features], results: dict) -> dict:
    """Train, and after each epoch evaluate the live model, save it, and rewrite the results.

    Args:
        eval_sets: evaluated in this order, the first being the primary one; empty for no evaluation.
        results: what goes before the epochs in the results file, from `describe`.

    Returns:
        The best epoch's record. The model is left as it was in that epoch.
    """
    args, accelerator = run.args, run.accelerator
    sampler = StepSampler(features.lengths, args.train_batch_size, args.seed, args.group_by_length)
    steps = args.max_train_steps or args.num_train_epochs * len(sampler)
    epochs = math.ceil(steps / len(sampler))

    optimizer = torch.optim.AdamW(parameter_groups(run.model, args.weight_decay), lr=args.learning_rate, fused=True)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, int(steps * args.warmup_proportion), steps)
    loader = DataLoader(
        features,
        batch_sampler=sampler,
        collate_fn=functools.partial(collate_parts, run.head.collate, args.gradient_accumulation_steps),
        num_workers=args.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    optimizer, loader = accelerator.prepare(optimizer, loader)
    if args.report_to != "none":
        accelerator.init_trackers("tensorboard")

    results = results | {"epochs": [], "best": None}
    log.info(f"training: {len(features)} examples, {len(sampler)} steps an epoch, {steps} steps in all")
    bar = tqdm(total=steps, unit="step", mininterval=0.5 if sys.stderr.isatty() else 30)
    step = 0
    for epoch in range(epochs):
        sampler.epoch = epoch
        run.model.train()
        of_epoch, of_window = Means(), Means()
        started = time.perf_counter()
        for parts in loader:
            figures = optimize(run, parts, optimizer)
            if not accelerator.optimizer_step_was_skipped:
                scheduler.step()
            step += 1
            bar.update()
            of_epoch.add(figures)
            of_window.add(figures)
            if step % args.logging_steps == 0 or step == steps:
                _log_window(run, step, epoch, scheduler.get_last_lr()[0], of_window.take())
            if step == steps:
                break
        seconds = time.perf_counter() - started

        means = of_epoch.take()
        if not math.isfinite(means["train_loss"]):
            raise InputError(
                f"the training loss is not finite in epoch {epoch}: lower --learning_rate {args.learning_rate:g},"
                " or clip with --max_grad_norm"
            )
        record = {"epoch": epoch, "global_step": step, "train_loss": means["train_loss"]}
        record |= evaluate(run, eval_sets)
        record |= {"seconds": round(seconds, 2)}
        record |= {name: means.get(name) for name in ("keep_rate", "fully_masked")}
        results["epochs"].append(record)
        if results["best"] is None or _is_better(record, results["best"]):
            results["best"] = record
        if accelerator.is_main_process:
            _save_epoch(run, record, results)
        accelerator.wait_for_everyone()
    bar.close()
    accelerator.end_training()

    best = results["best"]
    if best is not results["epochs"][-1]:
        load_release_checkpoint(accelerator.unwrap_model(run.model), run.folder.checkpoint(best["epoch"]))
    return best


def optimize(run: Run, parts: list[dict[str, torch.Tensor]], optimizer) -> dict[str, torch.Tensor]:
    """One optimizer step on one batch, given in parts, which weigh what they hold of it.

    Returns:
        The step's figures, still on the device.
    """
    accelerator, model = run.accelerator, run.model
    examples = sum(len(part["labels"]) for part in parts)
    labels = sum(_labelled(part["labels"]) for part in parts)
    figures = Means()
    for part in parts:
        shares = (len(part["labels"]), examples), (_labelled(part["labels"]), labels)
        with contextlib.nullcontext() if part is parts[-1] else accelerator.no_sync(model):
            output = model(**part)
            accelerator.backward(objectives.weighted_loss(output, *shares))
        figures.add(objectives.figures(output, *shares))
    if run.args.max_grad_norm:
        accelerator.clip_grad_norm_(model.parameters(), run.args.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return figures.sums


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Biases and norms, which have fewer than two dimensions, are not decayed."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]


def evaluate(run: Run, sets: dict[str, Features]) -> dict:
    """Scores of all sets: `eval_loss` and `eval_score` of the first, and `metrics`, where the others' have a prefix."""
    scores = {"eval_loss": None, "eval_score": None, "metrics": {}}
    for name, features in sets.items():
        logits, loss = predict(run, features)
        metrics = run.head.score(features, logits)
        if run.accelerator.is_main_process:
            log.info(f"{name}: " + ", ".join(f"{metric} {value:.2f}" for metric, value in metrics.items()))
        if not scores["metrics"]:
            scores = {"eval_loss": loss, "eval_score": next(iter(metrics.values())), "metrics": metrics}
        else:
            scores["metrics"] |= {f"{name}/{metric}": value for metric, value in metrics.items()}
    return scores


@torch.inference_mode()
def predict(run: Run, features: Features) -> tuple[list[np.ndarray], float | None]:
    """The plain model's predictions.

    Returns:
        The logits of each row, in the order of the rows, and the mean loss per label, or None without labels.
    """
    accelerator = run.accelerator
    # The longest first: a batch holds rows of like length, and a lack of memory shows at once.
    order = sorted(range(len(features)), key=lambda row: -features.lengths[row])
    loader = DataLoader(
        Subset(features, order),
        run.args.eval_batch_size,
        collate_fn=run.head.collate,
        num_workers=run.args.num_workers,
    )
    loader = accelerator.prepare(loader)
    run.model.eval()
    logits, losses = [], Means()
    for batch in loader:
        output = run.model(**batch)
        padded = accelerator.pad_across_processes(output.logits, dim=1)
        logits.extend(accelerator.gather_for_metrics(padded).float().cpu().numpy())
        if output.loss is not None:
            count = _labelled(batch["labels"])
            total = objectives.of_labels(output.loss, (count, 1))
            losses.add({"sum": accelerator.reduce(total), "labels": accelerator.reduce(count)})
    rows = [row for _, row in sorted(zip(order, logits, strict=True), key=lambda pair: pair[0])]
    loss = (losses.sums["sum"] / losses.sums["labels"]).item() if losses.sums else None
    return rows, loss


class Means:
    """Sums of figures, which stay on the device until their means are taken."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}
        self.added = 0

    def add(self, figures: dict[str, torch.Tensor]) -> None:
        for name, figure in figures.items():
            self.sums[name] = self.sums.get(name, 0) + figure.float()
        self.added += 1

    def take(self) -> dict[str, float | list[float]]:
        """The means since the last call."""
        means = {name: (total / self.added).tolist() for name, total in self.sums.items()}
        self.sums, self.added = {}, 0
        return means


def epoch_line(record: dict, loss_name: str) -> str:
    """The line of an epoch, as the release prints it."""
    line = f"Epoch {record['epoch']}: global step = {record['global_step']} | {loss_name} = {record['train_loss']:.3f}"
    if record["eval_score"] is not None:
        line += f" | eval score = {record['eval_score']:.2f} | eval loss = {record['eval_loss']:.3f}"
    return line


def _save_epoch(run: Run, record: dict, results: dict) -> None:
    """Save the epoch's weights, then the best folder, then the records that speak of them."""
    model = run.accelerator.unwrap_model(run.model)
    save_checkpoint(model, run.folder.checkpoint(record["epoch"]))
    if results["best"] is record:
        export(model, run.tokenizer, run.folder.best)
    run.folder.write_results(results)
    line = epoch_line(record, run.head.loss_name)
    run.folder.add_line(line)
    tqdm.write(line)


def _log_window(run: Run, step: int, epoch: int, learning_rate: float, means: dict) -> None:
    if not run.accelerator.is_main_process:
        return
    run.folder.add_metrics({"step": step, "epoch": epoch, "learning_rate": learning_rate, **means})
    if run.args.report_to != "none":
        scalars = {name: value for name, value in means.items() if not isinstance(value, list)}
        scalars |= {f"keep_rate/{layer}": rate for layer, rate in enumerate(means.get("keep_rate", []))}
        run.accelerator.log({**scalars, "learning_rate": learning_rate}, step=step)
    line = f"step {step}: train loss {means['train_loss']:.4f}"
    if "keep_rate" in means:
        rates = " ".join(f"{rate:.3f}" for rate in means["keep_rate"])
        line += f", keep rate {rates}, fully masked {means['fully_masked']:.4f}"
    log.info(line)


def _is_better(record: dict, best: dict) -> bool:
    """Whether an epoch beats the best so far; without an evaluation the last one does."""
    return record["eval_score"] is None or record["eval_score"] > best["eval_score"]


def _has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _labelled(labels: torch.Tensor) -> torch.Tensor:
    """How many labels a batch has, on its device."""
    return (labels != IGNORED_LABEL).sum()
