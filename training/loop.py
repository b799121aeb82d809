"""The training loop, on Hugging Face Accelerate.

Several processes split the rows of each optimizer step and each evaluation. Except for
dropout, losses, scores and files are the same as with one process.
"""

import argparse
import contextlib
import functools
import itertools
import sys
import time
from typing import Any

import torch
from accelerate.utils import (
    broadcast,
    broadcast_object_list,
    send_to_device,
)
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_scheduler

from data.batches import StepSampler, collate_parts
from data.features import Features
from data.predictions import write_predictions
from models.checkpoints import (
    backbone_of,
    export,
    load_release_checkpoint,
    release_state_dict,
    save_checkpoint,
)
from training import accumulation, liveness
from training.card import model_card
from training.devices import wait_for_all
from training.evaluation import (
    INTERRUPTED,
    Run,
    enough_memory,
    epoch_line,
    evaluate,
    ignore_signals,
    labelled,
    on_device,
)
from training.folder import encoder_weights
from training.optimizer import clip, make_optimizer, parameter_groups
from training.sharding import gather, is_sharded, most, scatter
from training.state import (
    Means,
    Progress,
    TrainingState,
    damage,
    data_identity,
    random_states,
    restore_random_states,
)
from training.versions import versions
from utils import InputError, Interrupted, counted, log

# A loss scale of 65,536, halved this often, is far below 1: then the scale is not the cause of the overflow.
MAX_SKIPPED_STEPS = 25


def start_trackers(run: Run, here: bool, step: int = 0) -> None:
    """Start the trackers on the main process, without changing the random states that training uses."""
    if run.accelerator.is_main_process and run.trackers.names:
        states = random_states(run.accelerator.device)
        run.trackers.start(vars(run.args), here, step)
        restore_random_states(states, run.accelerator.device)


def train(run: Run, features: Features, eval_sets: dict[str, Features], results: dict) -> dict:
    """Train, and after each epoch evaluate the current model, save it, and rewrite the results.

    Args:
        eval_sets: evaluated in this order; the first is the primary one. Empty for no evaluation.
        results: the part of the results file before the epochs, from `describe`; if empty, best/ gets no model card.

    Returns:
        The best epoch's record. The model has the weights of that epoch.
    """
    args, accelerator, folder = run.args, run.accelerator, run.folder
    place = accelerator.process_index, accelerator.num_processes
    sampler = StepSampler(features.lengths, args.train_batch_size, args.seed, args.group_by_length, *place)
    steps = args.max_train_steps or args.num_train_epochs * len(sampler)

    groups = parameter_groups(accelerator.unwrap_model(run.model), args.weight_decay, args.adversary_learning_rate)
    optimizer = make_optimizer(args.optimizer, groups, args.learning_rate)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, int(steps * args.warmup_proportion), steps)
    loader = DataLoader(
        features,
        batch_sampler=sampler,
        collate_fn=functools.partial(collate_parts, run.head.collate, args.gradient_accumulation_steps),
        num_workers=args.num_workers,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator(),  # not the global one, which the model uses and a saved state restores
        worker_init_fn=ignore_signals,
    )
    optimizer, loader = accelerator.prepare(optimizer), on_device(run, loader)
    idle = send_to_device(run.head.collate([features[0]]), accelerator.device)

    progress = Progress(broken=_counter(run), skipped=_counter(run, 2), by_loss=run.head.of_words)
    model = accelerator.unwrap_model(run.model)
    sets = {"the training data": features} | {f"the evaluated set {name}": rows for name, rows in eval_sets.items()}
    data = {name: data_identity(rows) for name, rows in sets.items()}
    state = TrainingState(model, optimizer, scheduler, accelerator, progress, sampler, data)
    told = folder.told() if args.resume else (0, 0)  # read before `resume` cuts the files back
    resume(run, state, results)
    progress.begin_segment(versions())
    if accelerator.is_main_process:  # first: a run without this file cannot be resumed
        folder.write_results(_results(results, progress))
    start_trackers(run, here=True, step=progress.step)
    run.trackers.begin(*told)
    many = counted(len(features), "example"), counted(len(sampler), "step"), counted(steps, "step")
    log.info(f"training: {many[0]}, {many[1]} an epoch, {many[2]} in all")
    often = 0.5 if sys.stderr.isatty() else 30
    bar = tqdm(
        total=steps,
        initial=progress.step,
        unit="step",
        mininterval=often,
        disable=not accelerator.is_main_process,
        postfix=bar_figures(progress),
    )
    with bar, folder.last_state_named():
        while progress.step < steps or progress.step_of_epoch:
            features.begin_epoch(progress.epoch)
            with enough_memory(run, *_memory_of_a_step(args)):
                train_epoch(run, state, loader, steps, idle, bar)
            _end_epoch(run, state, eval_sets, results)
            bar.set_postfix(bar_figures(progress), refresh=False)

    best = progress.best
    assert best is not None  # there is at least one step, and so one epoch
    if best is not progress.epochs[-1]:
        if accelerator.is_main_process:
            load_release_checkpoint(run.whole or model, folder.checkpoint(best["epoch"]))
        # Processes on other machines may not see the file.
        scatter(run.whole, model) if is_sharded(model) else broadcast(list(release_state_dict(model).values()))
    return best


def train_epoch(run: Run, state: TrainingState, loader: DataLoader, steps: int, idle: dict, bar: tqdm) -> None:
    """Train to the end of the epoch, or of the run's `steps`.

    Raises:
        Interrupted: a signal stopped the run; the state has been saved.
    """
    args, progress, sampler = run.args, state.progress, state.sampler
    assert run.interruption is not None
    sampler.epoch, sampler.skip = progress.epoch, progress.step_of_epoch
    left = min(len(sampler) - progress.step_of_epoch, steps - progress.step)
    run.model.train()
    clock = time.perf_counter()
    for parts in itertools.islice(loader, left):
        if hasattr(state.model, "share_done"):  # a method with a schedule of its own
            # nn.Module's type stub takes every attribute for a tensor or a module.
            state.model.share_done = progress.step / steps  # type: ignore[assignment]
        figures, finite = optimize(run, parts, state.optimizer, idle)
        state.scheduler.step()
        progress.count_step()
        _take_note(run, state, figures, finite)
        live = {}
        if args.liveness_steps and progress.step % args.liveness_steps == 0:
            _finish_step(run)
            progress.seconds += time.perf_counter() - clock
            live = liveness.measure(run, parts, progress.step)
            clock = time.perf_counter()
        if progress.step % args.logging_steps == 0 or progress.step == steps:
            _log_window(run, state, live)
            bar.set_postfix(bar_figures(progress), refresh=False)
        elif live:
            _log(run, state, live)
        saves = args.save_steps and progress.step % args.save_steps == 0
        if saves or progress.step_of_epoch == len(sampler) or progress.step == steps:
            _finish_step(run)
        progress.seconds += time.perf_counter() - clock
        bar.update()
        stopped_by = run.interruption.agreed()
        if stopped_by or saves:
            save_state(run, state)
        if stopped_by:
            raise Interrupted(stopped_by, INTERRUPTED)
        clock = time.perf_counter()


def _finish_step(run: Run) -> None:
    """Wait until the device has finished the step, so that its time is counted as the step's."""
    if run.accelerator.device.type != "cpu":
        torch.accelerator.synchronize()


def bar_figures(progress: Progress) -> dict[str, str]:
    """The figures in the progress bar: the loss at the last logging step, and the score of the last epoch.

    The loss of every step is not shown: reading it would stall a GPU.
    """
    figures = {}
    windows = (each for each in reversed(progress.metrics) if "learning_rate" in each)  # not records of liveness alone
    window: dict = next(windows, {})
    if window.get("train_loss") is not None:
        figures["loss"] = f"{window['train_loss']:.4f}"
    if progress.epochs and progress.epochs[-1]["eval_score"] is not None:
        figures["score"] = f"{progress.epochs[-1]['eval_score']:.2f}"
    return figures


def resume(run: Run, state: TrainingState, results: dict) -> None:
    """With --resume, restore the run's last state; otherwise do nothing.

    Args:
        results: as for `train`.

    Raises:
        InputError: the chosen state is damaged, does not fit this run, or was saved by different code.
    """
    if not run.args.resume:
        return
    folder, model = run.folder, state.model
    # One process chooses, because others might see other files.
    path = folder.state_to_resume(run.args.resume) if run.accelerator.is_main_process else None
    [path] = broadcast_object_list([path])
    if path is None:
        log.info(f"{folder.path}: cut off before it saved a state: from the beginning")
        if results:  # with the present weights of the encoder, not those that the run was given at first
            results.pop("encoder_sha256", None)
            results.update(encoder_weights(run.args.load_model_path))
    else:
        state.load(path, None if run.args.resume_changed_code else versions())
        log.info(f"resumed from {path}")
    if run.accelerator.is_main_process:
        # The files may contain steps after the state, which will now be repeated.
        folder.drop_states_after(path)
        progress = state.progress
        folder.write_metrics(progress.metrics)
        folder.write_lines(epoch_line(record, run.head.loss_name) for record in progress.epochs)
        best = progress.best
        if best is not None and not folder.checkpoint(best["epoch"]).exists():
            raise InputError(
                f"--resume: {folder.checkpoint(best['epoch'])}, the weights of the best epoch so far, is missing:"
                " put it back, or begin another run in another --output_dir"
            )
        if best is not None and folder.checkpoint(progress.epoch).exists():
            load_release_checkpoint(run.whole or model, folder.checkpoint(best["epoch"]))
            _export(run, results, progress)
            if run.whole is None:
                state.load(path)


def save_state(run: Run, state: TrainingState, evaluated: bool = False) -> None:
    """Save a state, and delete the oldest ones beyond --save_total_limit."""
    _stop_if_broken(run, state)
    state.save(run.folder.state(state.progress.step, evaluated))
    if run.accelerator.is_main_process:
        run.folder.keep_states(run.args.save_total_limit)


def optimize(
    run: Run, parts: list[dict[str, torch.Tensor]], optimizer, idle: dict[str, torch.Tensor] | None = None
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Take one optimizer step on a batch, given as parts: this process's rows, each part weighted by its size.

    Args:
        idle: a dummy batch with no effect on the gradient. A process with fewer parts than others, or with no row of a
            small last batch, computes it so that the others do not wait for it forever.

    Returns:
        This process's contribution to the step's figures, and whether loss and gradient were finite; both still on the
        device.
    """
    accelerator, model = run.accelerator, run.model
    computed = parts if idle is None else parts or [idle]
    if idle is not None and is_sharded(model):  # every process has to take part in each call
        computed = parts + [idle] * (most(len(computed), accelerator) - len(parts))
    own = torch.stack([_size(part["labels"]) for part in computed])  # (parts, 2)
    own[len(parts) :] = 0
    batch = accelerator.reduce(own.sum(0))  # (2,), over all processes
    figures, of_words = Means(), run.head.of_words
    for number, (part, size) in enumerate(zip(computed, own, strict=True), 1):
        shares = tuple(zip(size, batch, strict=True))
        with contextlib.nullcontext() if number == len(own) else accelerator.no_sync(model):
            output = model(**part)
            # The gradient is averaged over the processes, but their contributions to the loss have to be summed.
            accelerator.backward(
                accumulation.weighted_loss(output, *shares, of_words=of_words) * accelerator.num_processes
            )
        figures.add(accumulation.figures(output, *shares, of_words=of_words))
    if accelerator.scaler is not None:  # its own method asks for the precision of the last Accelerator that was made
        accelerator.scaler.unscale_(optimizer.optimizer)
    norms = clip(accelerator.unwrap_model(model), run.args.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    figures.add({name: norm / accelerator.num_processes for name, norm in norms.items()})
    return figures.sums, torch.stack([*norms.values(), figures.sums["train_loss"]]).isfinite().all()


def _take_note(run: Run, state: TrainingState, figures: dict[str, torch.Tensor], finite: torch.Tensor) -> None:
    """Add a step's figures to the means, and check that they are finite: on a GPU, without waiting for them."""
    progress = state.progress
    if run.accelerator.scaler is not None:  # if the step was not finite, it has skipped it and lowered its scale
        for means in (progress.of_epoch, progress.of_window):
            means.add(figures, finite)
        progress.skipped = torch.stack([progress.skipped[0] + ~finite, (progress.skipped[1] + 1) * ~finite])
        return
    for means in (progress.of_epoch, progress.of_window):
        means.add(figures)
    progress.broken = torch.where((progress.broken == 0) & ~finite, progress.step, progress.broken)
    if progress.broken.device.type == "cpu":
        _stop_if_broken(run, state)


def _stop_if_broken(run: Run, state: TrainingState) -> None:
    """Raise `InputError` if a step was not finite, or if fp16 has skipped too many in a row."""
    progress, args = state.progress, run.args
    if (in_a_row := int(progress.skipped[1])) >= MAX_SKIPPED_STEPS:
        raise InputError(
            f"step {progress.step}: the last {in_a_row} steps overflowed in fp16 and were skipped:"
            f" use --bf16, or a lower --learning_rate than {args.learning_rate:g}"
        )
    if broken := int(progress.broken):
        rows = state.sampler.steps()[progress.step_of_epoch - 1 - (progress.step - broken)]
        clipped = f"lower --max_grad_norm {args.max_grad_norm:g}" if args.max_grad_norm else "clip with --max_grad_norm"
        raise InputError(
            f"step {broken}, epoch {progress.epoch}: the loss or its gradient is not finite on the training rows"
            f" {', '.join(map(str, sorted(rows)))} (counted from 0): lower --learning_rate {args.learning_rate:g},"
            f" or {clipped}"
        )


def _end_epoch(run: Run, state: TrainingState, eval_sets: dict[str, Features], results: dict) -> None:
    """After an epoch, evaluate and save the model, then write the records that refer to it, then the state."""
    progress, accelerator = state.progress, run.accelerator
    _stop_if_broken(run, state)
    try:
        scores, logits = evaluate(run, eval_sets)
    except Interrupted:
        if damage(run.folder.state(progress.step, evaluated=False)) is not None:  # the last step did not save it
            save_state(run, state)
        raise
    means = progress.of_epoch.take(accelerator.reduce)
    record: dict[str, Any] = {
        "epoch": progress.epoch,
        "global_step": progress.step,
        "train_loss": means.get("train_loss"),
    }
    record |= scores | {"seconds": round(progress.seconds, 4), "skipped_steps": int(progress.skipped[0])}
    record |= {name: means.get(name) for name in ("keep_rate", "fully_masked")}
    progress.epochs.append(record)
    progress.epoch, progress.step_of_epoch, progress.seconds = progress.epoch + 1, 0, 0.0
    progress.skipped = progress.skipped * torch.tensor([0, 1], device=accelerator.device)
    model = accelerator.unwrap_model(run.model)
    if is_sharded(model):
        gather(model, run.whole)
    if accelerator.is_main_process:
        model = run.whole or model
        save_checkpoint(model, run.folder.checkpoint(record["epoch"]))
        best = progress.best
        assert best is not None  # of the epochs so far
        for name, rows in eval_sets.items() if not run.head.of_words else ():
            path = run.folder.predictions_of(name, training=True)
            write_predictions(path, rows, logits[name], best["epoch"], is_best=best is record)
        if best is record:
            _export(run, results, progress)
        run.folder.write_results(_results(results, progress))
        run.folder.write_lines(epoch_line(each, run.head.loss_name) for each in progress.epochs)
        scores_of = {name: record[f"eval_{name}"] for name in ("loss", "score")} | record["metrics"]
        figures = {f"eval/{name}": value for name, value in scores_of.items()}
        # Not "epoch/...": "epoch" is already a per-step figure, and trackers that store files cannot have both.
        figures |= {f"epoch_{name}": record[name] for name in ("train_loss", "seconds")}
        run.trackers.log("epochs", figures, record["global_step"])
    wait_for_all(accelerator)
    save_state(run, state, evaluated=True)
    if accelerator.is_main_process:
        tqdm.write(epoch_line(record, run.head.loss_name))  # last: standard output may be closed


def _export(run: Run, results: dict, progress: Progress) -> None:
    """Write best/: the current model, which is that of the best epoch, and its model card."""
    model = run.whole or run.accelerator.unwrap_model(run.model)
    card = model_card(_results(results, progress), type(backbone_of(model)).__name__) if results.get("args") else ""
    export(model, run.tokenizer, run.folder.best, card)


def _results(head: dict, progress: Progress) -> dict:
    return head | {"segments": progress.segments, "epochs": progress.epochs, "best": progress.best}


def _log_window(run: Run, state: TrainingState, live: dict) -> None:
    """Log the means over the last steps, without skipped ones, and the liveness, if it was measured."""
    _stop_if_broken(run, state)
    progress = state.progress
    step, learning_rate = progress.step, state.scheduler.get_last_lr()[0]
    means = progress.of_window.take(run.accelerator.reduce)
    if not run.accelerator.is_main_process:
        return
    record: dict[str, Any] = {"learning_rate": learning_rate, **means, **live}
    if run.accelerator.scaler is not None:
        record["skipped_steps"] = int(progress.skipped[0])  # in this epoch so far
    _log(run, state, record)
    line = f"step {step}: train loss {means['train_loss']:.4f}" if means else f"step {step}: every step was skipped"
    if "keep_rate" in means:
        shown = " ".join(f"{rate:.3f}" for rate in means["keep_rate"])
        line += f", keep rate {shown}, fully masked {means['fully_masked']:.4f}"
    if live.get("liveness") is not None:
        line += f", liveness {live['liveness']:.2f}"
    if record.get("skipped_steps"):
        line += f", {counted(record['skipped_steps'], 'step')} of this epoch skipped by the loss scale"
    log.info(line)


def _log(run: Run, state: TrainingState, figures: dict) -> None:
    """Add a record of the last step to the metrics, on the main process only."""
    progress = state.progress
    if not run.accelerator.is_main_process:
        return
    record = {"step": progress.step, "epoch": progress.epoch, **figures}
    progress.metrics.append(record)
    run.folder.add_metrics(record)
    scalars = {name: each for name, each in record.items() if name not in ("step", "keep_rate") and each is not None}
    rates: list[float] = record.get("keep_rate", [])
    layers = run.args.asa_layers or range(len(rates))
    scalars |= {f"keep_rate/{layer}": rate for layer, rate in zip(layers, rates, strict=False)}
    run.trackers.log("steps", scalars, progress.step)


def _counter(run: Run, *shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.long, device=run.accelerator.device)


def _memory_of_a_step(args: argparse.Namespace) -> tuple[str, str]:
    """For an out-of-memory error: what did not fit, and what to do. A resumed run keeps its original arguments."""
    return (
        f"a step with --train_batch_size {args.train_batch_size}",
        f"in a new run raise --gradient_accumulation_steps {args.gradient_accumulation_steps}, which computes the same"
        " step in smaller parts, or add --gradient_checkpointing",
    )


def _size(labels: torch.Tensor) -> torch.Tensor:
    """(2,): the number of examples in a batch, and the number of labels; on its device."""
    count = labelled(labels)
    return torch.stack([torch.full_like(count, len(labels)), count])
