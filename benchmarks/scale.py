"""Time and memory to start on a large set: the first start, which tokenises it, and a start from the cache.

python -m benchmarks.scale --pairs 400000 --output benchmarks/results/scale.json

Sentence pairs of random words replace MNLI, in its format and size (392,702 training rows, most of whose bytes are
parses that are not read). The real script trains on them for two steps, twice, each time in its own process.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.throughput import resident_megabytes
from data.readers import Examples
from data.tasks import NLI
from models.methods import METHODS
from training.flags import positive_int
from utils import InputError, Parser, run_script, write_json

ROOT = Path(__file__).parent.parent
HEADER = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
    "\tsentence1\tsentence2\tlabel1\tgold_label"
)
WORDS = (21, 11)  # in the first and the second sentence, on average
GOALS = {"data": 5.0, "peak_megabytes": 1500.0}  # for the second start: seconds of the data part, and memory


def main(argv: Sequence[str] | None = None) -> None:
    """Make the set, start the script twice, print a table, and write the JSON file; exit with 1 if a goal is missed."""
    args = parse_arguments(argv)
    if args.child:
        print(json.dumps(child(json.loads(args.child))))
        return
    with tempfile.TemporaryDirectory() as folder:
        train_file = Path(folder, "sets", "MNLI", "train.tsv")
        train_file.parent.mkdir(parents=True)
        write_pairs(train_file, args.pairs, vocabulary(args.load_model_path))
        facts = {"pairs": args.pairs, "file_megabytes": round(train_file.stat().st_size / 1e6, 1)}
        starts = {which: start(args, Path(folder), which) for which in ("first", "second")}
        facts["cache_megabytes"] = round(size(Path(folder, "cache")) / 1e6, 1)
        run = json.loads(Path(folder, "second", "results.json").read_text(encoding="utf-8"))
    second = starts["second"]
    missed = [name for name, goal in GOALS.items() if second[name] > goal] if not second["tokenised"] else list(GOALS)
    machine = {"device": run["device"], "cores": os.cpu_count(), "load_average_before": args.load_average}
    settings = {name: value for name, value in vars(args).items() if name not in ("child", "output", "load_average")}
    results = {"versions": run["versions"], "machine": machine, "args": settings, **facts, "starts": starts}
    results |= {"goals": GOALS, "missed": missed}
    print(report(results))
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, results)
    if missed:
        sys.exit(1)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=positive_int, default=400_000, help="training rows (default: %(default)s)")
    parser.add_argument("--load_model_path", default="all-MiniLM-L6-v2", help="(default: %(default)s)")
    parser.add_argument("--method", default="asa", choices=METHODS, help="(default: %(default)s)")
    parser.add_argument("--max_seq_length", type=positive_int, default=128, help="(default: %(default)s)")
    parser.add_argument("--no_cuda", action="store_true")
    parser.add_argument("--output", help="JSON file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(argv, argparse.Namespace(load_average=round(os.getloadavg()[0], 1)))


def vocabulary(encoder: str) -> list[str]:
    """The whole words in the tokenizer's vocabulary, in a fixed order."""
    from models.tokenizer import load_tokenizer  # takes seconds

    tokenizer = load_tokenizer(encoder, None, lower_case=False, slow=False)
    return sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha())


def write_pairs(path: Path, pairs: int, words: list[str]) -> None:
    """Write a training file in MNLI's format: `pairs` rows with sentences of random words and a random label."""
    random = np.random.default_rng(0)
    # Most sentences are short and some are long: negative binomial, with the given mean.
    lengths = [2 + random.negative_binomial(3, 3 / (mean + 1), pairs) for mean in WORDS]
    labels = random.integers(len(NLI), size=pairs)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(HEADER + "\n")
        for row in range(pairs):
            texts = [[words[place] for place in random.integers(len(words), size=column[row])] for column in lengths]
            binary = ["( " + " ( ".join(text) + " )" * len(text) for text in texts]
            parses = [f"(ROOT (S {' '.join(f'(NN {word})' for word in text)}))" for text in texts]
            label = NLI[labels[row]]
            columns = [row, f"{row}n", f"{row}e", "own", *binary, *parses, *map(" ".join, texts), label, label]
            file.write("\t".join(map(str, columns)) + "\n")


def start(args: argparse.Namespace, folder: Path, which: str) -> dict:
    """The result of `child`, run in its own process."""
    argv = ["--do_train", "--max_train_steps", "2", "--task_name", "MNLI", "--data_dir", str(folder / "sets")]
    argv += ["--load_model_path", args.load_model_path, "--method", args.method, "--bf16"]
    argv += ["--max_seq_length", str(args.max_seq_length), "--token_cache_dir", str(folder / "cache")]
    argv += ["--output_dir", str(folder / which), *(["--no_cuda"] if args.no_cuda else [])]
    job = json.dumps({"argv": argv, "started": time.time()})
    command = [sys.executable, "-m", "benchmarks.scale", "--child", job]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"the {which} start failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def child(job: dict) -> dict:
    """Run the real script to its end, and record when it reaches which point.

    Returns:
        Seconds: `to_data` from the start of the process until it looks for the data files, `data` from there until the
        sets are tokenised or mapped, `data_to_first_step` from there until the first optimizer step is done (with the
        weights loaded in between), and `to_first_step`, their sum; `whole` includes saving. `data_cpu` is the processor
        time of the data part over all cores, which is more reliable if others use the cores too. `peak_megabytes` is
        the largest resident set of the whole run, including mapped pages of the cache, and `data_peak_megabytes` that
        up to the end of the data part. `tokenised`: whether the text was read.
    """
    from training import loop, run

    notes, read = {}, []
    read_splits, execute, optimize, read_examples = (
        run.read_splits,
        run.execute,
        loop.optimize,
        Examples.read,
    )

    def note(event: str) -> None:
        notes.setdefault(event, (time.time() - job["started"], time.process_time(), resident_megabytes()))

    def looking_for_data(*arguments):
        note("data")
        return read_splits(*arguments)

    def reading(examples):
        read.append(examples)
        return read_examples(examples)

    def executing(*arguments):
        note("features")
        return execute(*arguments)

    def stepping(*arguments):
        figures, finite = optimize(*arguments)
        figures["train_loss"].item()  # waits until the device has finished
        note("step")
        return figures, finite

    run.read_splits, run.execute, loop.optimize = looking_for_data, executing, stepping
    Examples.read = reading
    sys.argv = ["run_sent_clas.py", *job["argv"]]
    runpy.run_path(str(ROOT / "run_sent_clas.py"), run_name="__main__")
    note("end")
    seconds = {event: round(when, 2) for event, (when, _, _) in notes.items()}
    data_cpu = notes["features"][1] - notes["data"][1]
    return {
        "to_data": seconds["data"],
        "data": round(seconds["features"] - seconds["data"], 2),
        "data_cpu": round(data_cpu, 2),
        "data_to_first_step": round(seconds["step"] - seconds["features"], 2),
        "to_first_step": seconds["step"],
        "whole": seconds["end"],
        "data_peak_megabytes": round(notes["features"][2]),
        "peak_megabytes": round(notes["end"][2]),
        "tokenised": bool(read),
    }


def size(folder: Path) -> int:
    """The total size of all files below a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def report(results: dict) -> str:
    """The table of both starts, and whether the second meets its goals."""
    lines = [
        f"{results['machine']['device']}, load average {results['machine']['load_average_before']} before",
        f"{results['pairs']} pairs, {results['file_megabytes']} MB; cache {results['cache_megabytes']} MB",
        "",
        "| start | to the data, s | data, s | its CPU time, s | then to the first step, s | to the first step, s |"
        " peak MB of the data part | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    columns = (
        "to_data",
        "data",
        "data_cpu",
        "data_to_first_step",
        "to_first_step",
        "data_peak_megabytes",
        "peak_megabytes",
    )
    lines += [
        f"| {which}, {'tokenised' if found['tokenised'] else 'from the cache'} | "
        + " | ".join(f"{found[name]:.1f}" if found[name] < 100 else f"{found[name]:.0f}" for name in columns)
        + " |"
        for which, found in results["starts"].items()
    ]
    goals = ", ".join(f"{name} at most {goal:g}" for name, goal in results["goals"].items())
    return "\n".join([*lines, "", f"goals of the second start ({goals}): {'missed' if results['missed'] else 'met'}"])


if __name__ == "__main__":
    run_script(main)
