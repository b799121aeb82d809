"""One run: from arguments and a task to a trained, evaluated or tested model."""

import argparse
import contextlib
import functools
import os
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import (
    DistributedDataParallelKwargs,
    set_seed,
)
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from data.classes import class_order, match_classes
from data.features import Features
from data.predictions import write_predictions
from data.readers import Examples, Splits, read_splits
from data.task_kinds import Task
from data.text import TextTask
from models import methods
from models.checkpoints import (
    load_saved,
    saved_classes,
)
from models.encoders import (
    attention_implementation,
    check_same_type,
    checkpoint_layers,
    load_config,
    load_pretrained,
    sources,
)
from models.heads import class_words
from models.masked_words import predict_given_words
from models.tokenizer import fit_together, load_tokenizer, positions
from training.devices import check_processes, make_accelerator, wait_for_all
from training.evaluation import (
    Head,
    Run,
    evaluate,
    predict,
    scores_line,
)
from training.flags import Default
from training.folder import RunFolder, describe, encoder_weights
from training.loop import start_trackers, train
from training.masked import under_masks
from training.probe import leaves_out, probe
from training.saved_settings import compare_with_training
from training.sharding import shard
from training.state import (
    Interruption,
)
from training.trackers import Trackers
from utils import InputError, counted, keep_freed_memory, log, never_destroy


def prepare(
    args: argparse.Namespace, task: Task, config_changes: dict, **tokenizer_settings
) -> tuple[Splits[Examples], PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return the requested sets, and the encoder's configuration and tokenizer; nothing is written.

    Raises:
        InputError: a data file is missing, or the encoder or the output folder cannot be used.
    """
    check_processes(args)
    examples = read_splits(task, args)
    model, tokens = sources(args.load_model_path, args.test_model_file)
    config = load_config(model.name, args.model_type, args.cache_dir, model.flag, **config_changes)
    if tokens != model:
        check_same_type(str(model), config, load_config(tokens.name, None, args.cache_dir))
    classes_to_score(args, task)  # to find an error early
    on_cpu = args.no_cuda or not torch.cuda.is_available()
    args.attn_implementation = attention_implementation(config, args.attn_implementation, args.do_train, on_cpu)
    if isinstance(args.max_seq_length, Default) and positions(config) < args.max_seq_length:
        log.info(f"{model}: it has positions for {counted(positions(config), 'token')}: longer rows are cut there")
        args.max_seq_length = positions(config)
    compare_with_training(args)
    sets = [examples.train, *examples.eval.values(), *examples.test.values()]
    files = [path for rows in sets for path in getattr(rows, "paths", ())]
    if args.resume or os.environ.get("GROUP_RANK", "0") == "0":  # other machines need not see the folder
        RunFolder(args.output_dir).check(args, task, files)
    methods.check(args, config)
    wanted = (args.cache_dir, args.do_lower_case, args.use_slow_tokenizer, tokens.flag)
    tokenizer = load_tokenizer(tokens.name, *wanted, **tokenizer_settings)
    encoder = "its encoder" if tokens == model else f"the encoder of {model}"
    fit_together(tokens.name, config, tokenizer, tokens.flag, encoder)
    return examples, config, tokenizer


def classes_to_score(args: argparse.Namespace, task: Task) -> tuple[list[int] | None, dict]:
    """For each of the task's labels, its class in the model to be scored; and the entry for the results file.

    Returns:
        None instead of the classes if the checkpoint does not name them; the task's order is assumed then.

    Raises:
        InputError: the model's classes are not those of the task.
    """
    source, order, names = args.test_model_file, None, None
    if source is not None and Path(source).is_dir() and not isinstance(task, TextTask):
        names = saved_classes(source)
        order = match_classes(task, names, f"--test_model_file {source}")
    if source is None or not getattr(task, "labels", ()):
        return order, {}
    if order is None:
        return None, {"classes": {"matched": "assumed in the task's order", "names": None}}
    return order, {"classes": {"matched": "by name", "names": names}}


def execute(
    args: argparse.Namespace,
    task: Task,
    head: Head,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    features: Splits[Features],
) -> None:
    """Train, evaluate and predict as requested; nothing is written before a batch has gone through the model.

    Raises:
        InputError: the weights or the output folder cannot be used, or the processes cannot share the work.
        Interrupted: by SIGTERM or Ctrl-C in training; the state has been saved.
    """
    folder = RunFolder(args.output_dir)
    begun = folder.read_results() if args.resume else None
    if begun and begun.get("finished"):
        said = f"{folder.path}: the run has finished already; --test_model_file {folder.best} uses its best epoch"
        if any(not _predictions(args, folder, task, name).exists() for name in features.test):
            raise InputError(f"--do_test: {said}")
        log.info(said)
        return
    unseen = {split: rows.report for split, rows in features.primary().items()}
    for split, report in unseen.items():
        log.info(
            f"{split}: " + ", ".join(f"{name.replace('_', ' ')} {round(value, 4)}" for name, value in report.items())
        )
    set_seed(args.seed)
    classes: dict[str, dict] = {}
    if args.do_train:
        order_of = None if head.of_words else functools.partial(class_order, task)
        backbone = load_pretrained(
            head.auto_class, args.load_model_path, config, args.cache_dir, args.attn_implementation, order_of
        )
        if args.gradient_checkpointing:
            checkpoint_layers(backbone)
        if head.of_words:
            predict_given_words(backbone)
        model = methods.build(args.method, backbone, args)
    else:
        order, classes = classes_to_score(args, task)
        model = load_saved(head.auto_class, args.test_model_file, config, args.attn_implementation, order)
        if head.of_words:
            predict_given_words(model)
        for found in classes.values():
            words = found["names"] or class_words(config)
            log.info(f"{args.test_model_file}: classes {found['matched']} ({', '.join(words)})")
        if args.eval_masks:
            model = under_masks(model, args)
    accelerator = make_accelerator(args)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    if accelerator.process_index:
        # Each process draws dropout that no process of another seed draws. The weights are those of the first.
        [seed] = np.random.SeedSequence([args.seed, accelerator.process_index]).generate_state(1)
        set_seed(int(seed))
    whole = shard(model, accelerator) if args.fsdp else None
    if args.do_train and not args.fsdp and accelerator.num_processes > 1 and leaves_out(model, features, head):
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    if not args.fsdp:  # only training needs the wrapper that synchronises processes
        model = accelerator.prepare_model(model, evaluation_mode=not args.do_train)
    if accelerator.num_processes > 1:
        # The wrapper is never destroyed, however the run ends: its destructor holds Python's lock while it waits for a
        # gloo thread, which may be waiting for that lock.
        never_destroy(model)
    record = describe(args, accelerator, features.counts()) | {"unseen": unseen} | classes
    record |= encoder_weights(args.load_model_path, begun) if args.do_train else {}
    if args.resume:
        folder.check_same(record)
    interruption = Interruption(accelerator) if args.do_train else None
    report_to = args.report_to if accelerator.is_main_process else "none"
    trackers = Trackers(report_to, folder.path, folder.trackers, bool(args.resume) and accelerator.is_main_process)
    run = Run(args, head, accelerator, model, tokenizer, folder, interruption, trackers, whole)
    probe(run, features)
    wait_for_all(accelerator)  # no process writes or removes anything before all have come this far
    try:
        if args.do_train:
            start_trackers(run, here=False)
        if accelerator.is_main_process:
            folder.open(args, task)
        wait_for_all(accelerator)
        with interruption or contextlib.nullcontext():
            _work(run, task, features, record)
    finally:
        run.trackers.finish()
        folder.close()


def _predictions(args: argparse.Namespace, folder: RunFolder, task: Task, name: str) -> Path:
    """The file for the predictions of a test set."""
    return folder.submission(task.submissions[name].submission, getattr(args, "predictions_format", None))


def _work(run: Run, task: Task, features: Splits[Features], record: dict) -> None:
    """The part of `execute` after the model is built and the folder opened."""
    args, accelerator, folder = run.args, run.accelerator, run.folder
    if args.do_train:
        assert features.train is not None
        best = train(run, features.train, features.eval, record)
        log.info(f"best: epoch {best['epoch']}, saved as {folder.best}")
    elif args.do_eval:
        scores, of_sets = evaluate(run, features.eval)
        if accelerator.is_main_process:
            for name, rows in features.eval.items() if not run.head.of_words else ():
                logits = of_sets[name]
                if run.head.in_labels is not None:
                    logits = run.head.in_labels(logits)
                write_predictions(folder.predictions_of(name, training=False), rows, logits)
            folder.write_evaluation(record | scores)
            print(scores_line(scores))
    for name, test_features in features.test.items():
        path = _predictions(args, folder, task, name)
        logits, _ = predict(run, test_features)
        if accelerator.is_main_process:
            assert run.head.write is not None
            run.head.write(path, test_features, logits)
            log.info(f"predictions: {path}")
    if args.do_train and accelerator.is_main_process:
        folder.finish()
    wait_for_all(accelerator)
    accelerator.end_training()  # no process may leave while another still communicates with it
