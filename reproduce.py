"""Run the experiments behind the paper's tables, and make the tables.

python reproduce.py main --encoder bert-base-uncased --data_dir data/sets --output_dir runs/bert
python reproduce.py report runs/bert
"""

import argparse
import itertools
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from data import own
from data.readers import task_folder
from data.task_kinds import Task
from data.tasks import TASKS, find_name, names_of
from experiments import plan
from experiments.plan import OtherSet, Variant
from experiments.records import missing, read_results
from models.methods import ASA_BUDGET, METHODS, TAU
from training.arguments import SCRIPTS
from utils import InputError, Parser, counted, log, run_script

# Table -> its default tasks.
TASKS_OF = {
    "main": ("SST-2", "MNLI", "QNLI", "QQP", "STS-B", "WNUT-2017", "DREAM"),
    "comparison": ("CoLA", "SST-2", "MRPC", "STS-B"),
    "ablation-tau": ("CoLA",),
    "ablation-layers": ("CoLA",),
    "robustness": ("MNLI", "QQP", "SST-2"),
    "pretraining": ("CoLA", "MRPC", "RTE", "SST-2"),
}
SCORED_ON = {"MNLI": ("ANLI", "HANS"), "QQP": ("PAWS-QQP",)}  # other tasks with the same labels
# Rows that --methods accepts besides the methods themselves.
NAMED = {"smart-code": Variant("smart-code", "smart", ("--smart_bregman", "0"))}  # as in SMART's own code
# And these, followed by a budget, as in asa_budget-0.05: ASA under that budget, and random masks that mask as many
# keys.
OF_BUDGET = {"asa_budget": ("asa_budget", "--asa_budget"), "random_budget": ("random_mask", "--random_mask_budget")}
BUDGET_ROW = re.compile(rf"({'|'.join(OF_BUDGET)})-(0\.\d+)")
METHODS_OF = {
    "main": ("naive", "asa"),
    "robustness": ("naive", "asa"),
    "comparison": (*METHODS, *NAMED),
    "pretraining": ("naive", "asa", "asa_budget"),
}
MOST_SEEDS = 20  # a larger number was probably meant as a seed
TAUS = "0,0.001,0.01,0.1,0.5"
# The grid sets these for every run; the user must not give them after --.
OF_THE_GRID = ("--output_dir", "--overwrite_output_dir", "--resume", "--seed", "--task_name", "--method", "--do_train")
# The same for single tables: a table varies these flags, or has its own flag for them.
OF_THE_TABLE = {
    "ablation-tau": ("--tau",),
    "ablation-layers": ("--asa_layers",),
    "pretraining": ("--max_train_steps", "--load_model_path", "--train_file", "--dev_file"),
}
SHARED, FINE_TUNING = ("cache_dir", "bf16", "fp16", "no_cuda"), ("data_dir", "max_train_steps")
PASSED = (*FINE_TUNING, *SHARED)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a grid or print the tables, as the arguments request."""
    args, extra = parse_arguments(sys.argv[1:] if argv is None else argv)
    # Imported here because they take seconds to load: --help and argument errors do not have to wait for them.
    from experiments import cluster, launch, pretraining
    from experiments.tables import report

    if args.command == "report":
        folder = Path(args.folder)
        output = args.output and Path(args.output)
        further, results = pretraining.apart(read_results(folder))
        more = pretraining.section(further, results, times=not args.no_times)
        print(report(folder, results, missing(folder), output, times=not args.no_times, more=more))
        return
    folder = Path(args.output_dir)
    tasks = [args.own_tasks.get(name) or TASKS[name] for name in args.tasks]
    if args.command == "pretraining":
        runs = pretraining.plan_runs(
            folder, args, tasks, variants_of(args), flags_of(args, SHARED), flags_of(args, FINE_TUNING), extra
        )
    else:
        flags = [*passed_flags(args), *extra]
        runs = plan.plan_runs(folder, tasks, variants_of(args), args.seeds, flags)
    if args.command == "robustness":
        sets = other_sets(args)
        for task in [name for name, others in sets.items() if not others]:
            log.warning(f"{task}: nothing to score its models on: give --eval_file {task}=FILE")
            runs = [run for run in runs if run.task.name != task]
        if not runs:
            raise InputError(f"--tasks {','.join(args.tasks)}: nothing to score their models on: give --eval_file")
        runs = plan.with_evaluations(runs, sets, flags)
    for run in {run.task.name: run for run in reversed(runs) if run.task.own}.values():  # fail now, not in its turn
        if run.task.script == "run_mlm":
            pretraining.check_text(run)
            continue
        own.task_of(argparse.Namespace(**run.args), SCRIPTS[run.task.script].tasks)
    on_slurm = args.cluster == "slurm"
    if args.dry_run:
        (cluster if on_slurm else launch).dry_run(runs, folder, args.jobs)
        return
    if args.command == "robustness":  # fail now, not after training
        for other in itertools.chain(*sets.values()):
            if not other.file:
                task_folder(runs[0].args["data_dir"], other.task)
        plan.check_evaluations(runs)
    again = f"to go on: {shlex.join([Path(sys.executable).name, *sys.argv])}"
    if on_slurm:
        failed = cluster.run_grid(runs, folder, args.cluster_args, args.keep_checkpoints, again)
    else:
        failed = launch.run_grid(runs, folder, args.jobs, args.keep_checkpoints, again)
    if failed:
        print(f"{len(failed)} of {counted(len(runs), 'run')} failed; {again}", file=sys.stderr)
        for name, why in failed.items():
            print(f"  {name}: {why}", file=sys.stderr)
        sys.exit(1)
    log.info(f"{counted(len(runs), 'run')} finished: python reproduce.py report {shlex.quote(str(folder))}")


def parse_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the arguments, and the arguments after `--`, which are passed to every run.

    Raises:
        InputError: an argument cannot be used.
    """
    split = argv.index("--") if "--" in argv else len(argv)
    extra = list(argv[split + 1 :])
    parser = Parser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for table, about in {
        "main": "plain fine-tuning and ASA on the tasks of the paper's main table",
        "comparison": "ASA and the baselines",
        "ablation-tau": "ASA with different weights of the penalty",
        "ablation-layers": "ASA on some of the layers only",
        "robustness": "the models of the main table, scored on other test sets",
        "pretraining": "pre-train an encoder further on text, then fine-tune it plainly",
    }.items():
        epilog = OF_PRETRAINING if table == "pretraining" else EPILOG
        command = commands.add_parser(table, help=about, allow_abbrev=False, epilog=epilog)
        _add_grid_arguments(command, table)
    command = commands.add_parser("report", help="the tables of all runs below a folder", allow_abbrev=False)
    command.add_argument("folder", help="reads every results.json in it and below")
    command.add_argument("--output", metavar="FOLDER", help="write report.md, report.csv and report.json there")
    command.add_argument(
        "--no_times", action="store_true", help="leave out times, if the runs shared the machine with other work"
    )
    args = parser.parse_args(argv[:split])
    if args.command == "report":
        if extra:
            raise InputError(f"{extra[0]}: report takes nothing after --")
        return args, extra
    for part in extra:
        if part.partition("=")[0] in (*OF_THE_GRID, *OF_THE_TABLE.get(args.command, ())):
            raise InputError(f"{part} after --: the grid sets it itself")
    if args.cluster_args and args.cluster == "local":
        raise InputError(f"--cluster_args {args.cluster_args[0]}: they are for --cluster slurm")
    if args.jobs > 1 and args.cluster == "slurm":
        raise InputError(f"--jobs {args.jobs}: with --cluster slurm it is --cluster_args array_parallelism={args.jobs}")
    if args.command == "robustness" and args.keep_checkpoints == "none":
        raise InputError("--keep_checkpoints none: robustness evaluates the last one, so keep that")
    if args.command == "pretraining" and args.keep_checkpoints == "none":
        raise InputError("--keep_checkpoints none: what is trained further is then fine-tuned, so keep that")
    args.tasks, args.own_tasks = _known_and_own(args.tasks)
    return args, extra


def _known_and_own(given: Sequence[str]) -> tuple[list[str], dict[str, Task]]:
    """Split --tasks into the names of all tasks, and the tasks that are folders with the user's own data.

    Raises:
        InputError: there is no such task or folder, or two have the same name.
    """
    known = {other.lower() for name in TASKS for other in names_of(name)}
    names, own_tasks = [], {}
    for name in dict.fromkeys(given):
        if "/" in name and not Path(name).is_dir():
            raise InputError(f"--tasks {name}: no such folder")
        if name.lower() in known or not Path(name).is_dir():
            names.append(find_name(name, TASKS, f"--tasks {name}"))
            continue
        task = plan.folder_task(name)
        if task.name in own_tasks:
            raise InputError(f"--tasks {name}: another folder is called {task.name} too: rename one")
        own_tasks[task.name] = task
        names.append(task.name)
    return list(dict.fromkeys(names)), own_tasks


EPILOG = "Arguments after -- go to every run, as in: ... -- --learning_rate 1e-5"
OF_PRETRAINING = "Arguments after -- go to the pre-training runs, as in: ... -- --learning_rate 1e-4 --whole_word_mask"


def _add_grid_arguments(command: Parser, table: str) -> None:
    group = command.add_argument_group("the grid")
    group.add_argument(
        "--encoder", default="bert-base-uncased", help="passed on as --load_model_path (default: %(default)s)"
    )
    group.add_argument(
        "--output_dir", required=True, help="folder of the grid; each run gets <TASK>/<METHOD>/seed<SEED> in it"
    )
    group.add_argument(
        "--tasks",
        type=_words,
        default=TASKS_OF[table],
        help=f"names, or folders with train.* and dev.* of your own (default: {','.join(TASKS_OF[table])})",
    )
    if table in METHODS_OF:
        methods = METHODS_OF[table]
        group.add_argument(
            "--methods",
            type=_words,
            default=methods,
            help="also asa_budget-BETA, such as asa_budget-0.05, and random_budget-BETA: random masks on as many keys"
            f" (default: {','.join(methods)})",
        )
    if table == "ablation-tau":
        group.add_argument("--taus", type=_taus, default=_taus(TAUS), help=f"(default: {TAUS})")
    if table == "ablation-layers":
        group.add_argument(
            "--layers",
            nargs="+",
            help="one or more values of --asa_layers (default: each third of the layers, and all)",
        )
    if table == "robustness":
        group.add_argument(
            "--eval_file",
            action="append",
            default=[],
            metavar="TASK=FILE",
            help="score the models of a task on a file in its format; may be given several times",
        )
    if table == "pretraining":
        group.add_argument(
            "--train_file", nargs="+", required=True, metavar="TEXT", help="text files, as for run_mlm.py"
        )
        group.add_argument(
            "--dev_file", nargs="+", required=True, metavar="TEXT", help="held-out text, for the perplexity"
        )
        group.add_argument("--steps", type=_count, required=True, help="pre-training steps of each method")
    group.add_argument(
        "--seeds", type=_seeds, help="how many, from 42 on, or a list such as 1,2 (default: 3 or 5, by task)"
    )
    group.add_argument(
        "--jobs", type=_count, default=1, help="runs at a time, spread over the GPUs (default: %(default)s)"
    )
    group.add_argument(
        "--cluster", choices=("local", "slurm"), default="local", help="where the runs are started (default: local)"
    )
    group.add_argument(
        "--cluster_args",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="submitit's settings for Slurm: partition=gpu gpus_per_node=1 timeout_min=240 array_parallelism=16",
    )
    group.add_argument("--dry_run", action="store_true", help="print the commands and their estimated times, and stop")
    group.add_argument(
        "--keep_checkpoints",
        choices=plan.KEPT,
        default="last",
        help="which weights of a finished run to keep: all epochs, the last epoch and best/, or none (default:"
        " %(default)s)",
    )
    group = command.add_argument_group("every run")
    group.add_argument("--data_dir", help="folder with a folder per task (default: data/sets)")
    group.add_argument("--cache_dir", help="where downloads from the Hub are kept")
    runs = "fine-tuning run" if table == "pretraining" else "run"
    group.add_argument("--max_train_steps", type=_count, help=f"steps per {runs}, instead of epochs, to try things out")
    group.add_argument("--bf16", action="store_true", help="bfloat16")
    group.add_argument("--fp16", action="store_true", help="float16; on a CPU, bfloat16 if supported, else float32")
    group.add_argument("--no_cuda", action="store_true", help="stay on the CPU")


def variants_of(args: argparse.Namespace) -> list[Variant]:
    """The rows of the requested table."""
    if args.command == "ablation-tau":
        return [_variant("asa", "tau", tau, f"{TAU:g}") for tau in args.taus] + [Variant("naive", "naive")]
    if args.command == "ablation-layers":
        from models.encoder_types import layer_calls
        from models.encoders import load_config

        chosen = args.layers
        if not chosen:
            config = load_config(args.encoder, None, args.cache_dir, "--encoder")
            chosen = [*thirds(layer_calls(config)), "all"]
        return [_variant("asa", "asa_layers", layers, "all") for layers in chosen] + [Variant("naive", "naive")]
    return list(dict.fromkeys(row(name) for name in args.methods))


def row(name: str) -> Variant:
    """The table row for a name in --methods."""
    if found := BUDGET_ROW.fullmatch(name):
        method, flag = OF_BUDGET[found[1]]
        share = float(found[2])
        if (method, share) == ("asa_budget", ASA_BUDGET):  # the same as the method without a number
            return Variant(method, method)
        return Variant(f"{found[1]}-{share:g}", method, (flag, f"{share:g}"))
    return NAMED.get(name, Variant(name, name))


def thirds(count: int) -> list[str]:
    """Split an encoder's layers into thirds, from the lowest up, as values of --asa_layers; two layers into halves."""
    bounds = sorted({round(part * count / 3) for part in range(4)})
    return [f"{first}-{after - 1}" for first, after in itertools.pairwise(bounds)]


def _variant(method: str, argument: str, value: str, default: str) -> Variant:
    """A variant of a method; with the default value it is the method itself, which shares the main table's runs."""
    if value == default:
        return Variant(method, method)
    return Variant(f"{method}-{argument.removeprefix('asa_')}{value}", method, (f"--{argument}", value))


def other_sets(args: argparse.Namespace) -> dict[str, list[OtherSet]]:
    """Task -> the other sets that its models are scored on.

    Raises:
        InputError: an --eval_file does not exist, or its task is not in the grid.
    """
    sets = {task: [OtherSet(name) for name in SCORED_ON.get(task, ())] for task in args.tasks}
    for given in args.eval_file:
        name, _, file = given.partition("=")
        task = name if name in args.own_tasks else find_name(name, TASKS, f"--eval_file {given}")
        if task not in sets:
            raise InputError(f"--eval_file {given}: {task} is not one of --tasks")
        if not Path(file).is_file():
            raise InputError(f"--eval_file {given}: no such file; give TASK=FILE")
        sets[task].append(OtherSet(task, file))
    return sets


def passed_flags(args: argparse.Namespace) -> list[str]:
    """The flags that every run gets in addition to the task's published settings."""
    return ["--load_model_path", args.encoder, *flags_of(args, PASSED)]


def flags_of(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Of the named arguments, those that are set, as flags for the runs."""
    given: list[str] = []
    for name in names:
        value = getattr(args, name)
        if value is True:
            given.append(f"--{name}")
        elif value:
            given += [f"--{name}", str(value)]
    return given


def _words(text: str) -> list[str]:
    words = [word for word in text.split(",") if word]
    if not words:
        raise argparse.ArgumentTypeError("the list is empty")
    return list(dict.fromkeys(words))


def _taus(text: str) -> list[str]:
    try:
        return list(dict.fromkeys(f"{float(word):g}" for word in _words(text)))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, as 0,0.1") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _seeds(text: str) -> int | list[int]:
    if "," not in text:
        count = _count(text)
        if count > MOST_SEEDS:
            raise argparse.ArgumentTypeError(
                f"{text} would be {text} seeds: for the seed {text} alone give '{text},', and"
                f" for more than {MOST_SEEDS} seeds a list"
            )
        return count
    if not all(word.isdecimal() for word in _words(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of seeds nor a list of them, as 1,2")
    return list(dict.fromkeys(int(word) for word in _words(text)))


if __name__ == "__main__":
    run_script(main)
