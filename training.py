"""The one train / evaluate / predict loop, on Hugging Face Accelerate.

Several processes share each optimizer step and each evaluation, a row going to one of them alone; losses, scores and
files are those of one process.
"""

import argparse
import contextlib
import functools
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import broadcast, gather_object, send_to_device, set_seed
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
from models.checkpoints import export, load_release_checkpoint, load_saved, release_state_dict, save_checkpoint
from models.encoders import checkpoint_layers, fit_together, load_config, load_pretrained, load_tokenizer
from run_folder import RunFolder, describe
from utils import InputError, keep_freed_memory, log

# What keeps each process from having the whole model.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


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
    """The sets that the arguments ask for, and the encoder's configuration and tokenizer; writes nothing.

    Raises:
        InputError: a data file is missing, or the encoder or the output folder cannot be used.
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
        InputError: the weights cannot be used, the output folder cannot, or the processes cannot share the work.
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
        if args.gradient_checkpointing:
            checkpoint_layers(backbone)
        model = objectives.build(args.method, backbone, args)
    else:
        model = load_saved(head.auto_class, args.test_model_file, config, args.attn_implementation)
    accelerator = make_accelerator(args)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    if accelerator.process_index:
        set_seed(args.seed + accelerator.process_index)  # a dropout of its own; the weights are those of the first
    # Only training needs the wrapper that keeps processes in step.
    model = accelerator.prepare_model(model, evaluation_mode=not args.do_train)
    run = Run(args, head, accelerator, model, tokenizer, folder)
    if accelerator.is_main_process:
        folder.open(args, task)
    accelerator.wait_for_everyone()
    record = describe(args, accelerator, features.counts()) | {"unseen": unseen}

    if args.do_train:
        best = train(run, features.train, features.eval, record)
        log.info(f"best: epoch {best['epoch']}, saved as {folder.best}")
    elif args.do_eval:
        scores = evaluate(run, features.eval)
        if accelerator.is_main_process:
            folder.write_evaluation(record | scores)
            print(f"eval score = {scores['eval_score']:.2f} | eval loss = {scores['eval_loss']:.3f}")
    for name, test_features in features.test.items():
        path = folder.submission(task.submissions[name].submission)
        logits, _ = predict(run, test_features)
        if accelerator.is_main_process:
            head.write(path, test_features, logits)
            log.info(f"predictions: {path}")
    accelerator.wait_for_everyone()
    accelerator.end_training()  # of several processes, none leaves while another still talks to it


def make_accelerator(args: argparse.Namespace) -> Accelerator:
    """The device and precision that the arguments ask for; says so where the machine has something less.

    Raises:
        InputError: there are several processes, and the work cannot be shared between them.
    """
    on_gpu = torch.cuda.is_available() and not args.no_cuda
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else "no"
    if precision == "fp16" and not on_gpu:
        precision = "bf16" if _has_bf16() else "no"
        log.info(f"--fp16 needs a GPU: going on in {'bf16' if precision == 'bf16' else 'fp32'} on the processor")
    tracking = {} if args.report_to == "none" else {"log_with": args.report_to, "project_dir": args.output_dir}
    # Several processes find each other on a processor only if told that it is to be the processor.
    cpu = args.no_cuda or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision, **tracking)
    started = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != started:
        raise InputError(f"{started} processes cannot share this device ({accelerator.device}): add --no_cuda")
    if accelerator.distributed_type in SHARDED:
        raise InputError(f"{accelerator.distributed_type.value} is not supported: launch with plain data parallelism")
    return accelerator


def train(run: Run, features: Features, eval_sets: dict[str, Features], results: dict) -> dict:
    """Train, and after each epoch evaluate the live model, save it, and rewrite the results.

    Args:
        eval_sets: evaluated in this order, the first being the primary one; empty for no evaluation.
        results: what goes before the epochs in the results file, from `describe`.

    Returns:
        The best epoch's record. The model is left as it was in that epoch.
    """
    args, accelerator = run.args, run.accelerator
    place = accelerator.process_index, accelerator.num_processes
    sampler = StepSampler(features.lengths, args.train_batch_size, args.seed, args.group_by_length, *place)
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
    optimizer, loader = accelerator.prepare(optimizer), on_device(run, loader)
    idle = send_to_device(run.head.collate([features[0]]), accelerator.device)
    if args.report_to != "none":
        accelerator.init_trackers("tensorboard")

    results = results | {"epochs": [], "best": None}
    log.info(f"training: {len(features)} examples, {len(sampler)} steps an epoch, {steps} steps in all")
    often = 0.5 if sys.stderr.isatty() else 30
    bar = tqdm(total=steps, unit="step", mininterval=often, disable=not accelerator.is_main_process)
    step = 0
    for epoch in range(epochs):
        sampler.epoch = epoch
        run.model.train()
        of_epoch, of_window = Means(), Means()
        started = time.perf_counter()
        for parts in loader:
            figures = optimize(run, parts, optimizer, idle)
            if not accelerator.optimizer_step_was_skipped:
                scheduler.step()
            step += 1
            bar.update()
            of_epoch.add(figures)
            of_window.add(figures)
            if step % args.logging_steps == 0 or step == steps:
                _log_window(run, step, epoch, scheduler.get_last_lr()[0], of_window.take(accelerator.reduce))
            if step == steps:
                break
        seconds = time.perf_counter() - started

        means = of_epoch.take(accelerator.reduce)
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
    if args.report_to != "none":
        accelerator.get_tracker("tensorboard").finish()

    best = results["best"]
    if best is not results["epochs"][-1]:
        model = accelerator.unwrap_model(run.model)
        if accelerator.is_main_process:
            load_release_checkpoint(model, run.folder.checkpoint(best["epoch"]))
        broadcast(list(release_state_dict(model).values()))  # another machine may not see the file
    return best


def on_device(run: Run, loader: DataLoader) -> DataLoader:
    """The loader with its batches on this process's device; the rows are this process's own already.

    A batch is on its way to a GPU, from pinned memory, while the one before it is computed.
    """
    place = {"num_processes": 1, "process_index": 0, "put_on_device": True}
    return prepare_data_loader(loader, run.accelerator.device, **place, non_blocking=True)


def optimize(
    run: Run, parts: list[dict[str, torch.Tensor]], optimizer, idle: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """One optimizer step on one batch: this process's rows of it, given in parts, which weigh what they hold of it.

    Args:
        idle: what a process that has no row of a last, smaller batch computes in its place, to no effect: the others
            wait for its gradient.

    Returns:
        What this process adds to the step's figures, still on the device.
    """
    accelerator, model = run.accelerator, run.model
    own = torch.stack([_size(part["labels"]) for part in parts or [idle]]) * bool(parts)  # (parts, 2)
    batch = accelerator.reduce(own.sum(0))  # (2,), over all processes
    figures = Means()
    for number, (part, size) in enumerate(zip(parts or [idle], own, strict=True), 1):
        shares = tuple(zip(size, batch, strict=True))
        with contextlib.nullcontext() if number == len(own) else accelerator.no_sync(model):
            output = model(**part)
            # The gradient is averaged over the processes, and what they add to the loss is to be summed.
            accelerator.backward(objectives.weighted_loss(output, *shares) * accelerator.num_processes)
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
    """The plain model's predictions, each row's by one of the processes.

    Returns:
        The logits of each row, in the order of the rows, and the mean loss per label, or None without labels.
    """
    accelerator = run.accelerator
    # The longest first: a batch holds rows of like length, and a lack of memory shows at once.
    order = sorted(range(len(features)), key=lambda row: -features.lengths[row])
    order = order[accelerator.process_index :: accelerator.num_processes]
    loader = DataLoader(
        Subset(features, order),
        run.args.eval_batch_size,
        collate_fn=run.head.collate,
        num_workers=run.args.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    # Without the wrapper that keeps processes in step: one may have more batches than another.
    model = accelerator.unwrap_model(run.model).eval()
    logits, losses = [], Means()
    for batch in on_device(run, loader):
        output = model(**batch)
        logits.append(output.logits.float())  # fetched at the end: a GPU need not wait for the next batch to be made
        if output.loss is not None:
            count = _labelled(batch["labels"])
            losses.add({"sum": objectives.of_labels(output.loss, (count, 1)), "labels": count})
    sums = {name: figure.item() for name, figure in losses.sums.items()}
    fetched = [row for batch in logits for row in batch.cpu().numpy()]
    found = gather_object([(dict(zip(order, fetched, strict=True)), sums)])  # one of each process
    rows = {row: values for own, _ in found for row, values in own.items()}
    labels = sum(sums.get("labels", 0) for _, sums in found)
    loss = sum(sums.get("sum", 0.0) for _, sums in found) / labels if labels else None
    return [rows[row] for row in range(len(features))], loss


class Means:
    """Sums of figures, which stay on the device until their means are taken."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}
        self.added = 0

    def add(self, figures: dict[str, torch.Tensor]) -> None:
        for name, figure in figures.items():
            self.sums[name] = self.sums.get(name, 0) + figure.float()
        self.added += 1

    def take(self, reduce: Callable) -> dict[str, float | list[float]]:
        """The means since the last call.

        Args:
            reduce: sums what the processes have added.
        """
        means = {name: (total / self.added).tolist() for name, total in reduce(self.sums).items()}
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


def _size(labels: torch.Tensor) -> torch.Tensor:
    """(2,): how many examples a batch has, and how many labels; on its device."""
    labelled = _labelled(labels)
    return torch.stack([torch.full_like(labelled, len(labels)), labelled])


def _labelled(labels: torch.Tensor) -> torch.Tensor:
    """How many labels a batch has, on its device."""
    return (labels != IGNORED_LABEL).sum()
