"""Check that a run killed repeatedly ends like an undisturbed one: the real scripts, killed at random moments.

python -m benchmarks.kill_resume --kills 50 --output benchmarks/results/kill_resume.json

The runs use a tiny encoder with dropout, small data sets of random words, gradient accumulation and a smaller last
batch. Each script runs once undisturbed. Then it is killed (SIGKILL) and resumed until it ends, and every file must be
bit-for-bit identical. This is repeated, script after script, until `--kills` kills are done.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from training.flags import natural, positive_int
from utils import Parser, run_script, write_json

ROOT = Path(__file__).parent.parent
TASKS = {"run_sent_clas": "SST-2", "run_multi_cho": "DREAM", "run_tok_clas": "WNUT-2017"}
WORDS = "acting bright cast charming comedy drama ending film fresh funny good great honest lovely moving plot".split()

JITTER = 0.3  # seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Kill and resume, print the outcome, and write the JSON file; the exit status is 1 if runs differ."""
    args = parse_arguments(argv)
    from training.versions import versions  # takes seconds, like all imports inside functions here

    chance = random.Random(args.seed)
    kills, runs = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder / "sets", args.rows)
        make_encoder(folder / "encoder")
        whole = {script: undisturbed(script, folder) for script in TASKS}
        for script in itertools.cycle(TASKS):
            if len(kills) >= args.kills:
                break
            cut = folder / "cut"
            done = disturbed(script, folder, cut, chance, args.kills - len(kills))
            different = differences(cut, whole[script])
            kills += done
            runs.append({"script": script, "kills": len(done), "different": different})
            print(f"{script}: killed {len(done)} times, {', '.join(different) or 'every file the same'}", flush=True)
            shutil.rmtree(cut)
    settings = {name: value for name, value in vars(args).items() if name != "output"}
    results = {"versions": versions(), "args": settings, "runs": runs, "kills": kills}
    print(report(results))
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, results)
    if any(run["different"] for run in runs):
        sys.exit(1)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=positive_int, default=50)
    parser.add_argument("--rows", type=positive_int, default=203, help="rows of each task (default: %(default)s)")
    parser.add_argument("--seed", type=natural, default=0, help="seed of the moments (default: %(default)s)")
    parser.add_argument("--output", help="JSON file for the results")
    return parser.parse_args(argv)


def command(script: str, folder: Path, output_dir: Path, *flags: str) -> list[str]:
    """The command line of a run: 2 epochs, batches of 4 rows in 2 parts, and a state every 5 steps."""
    argv = [sys.executable, str(ROOT / f"{script}.py"), "--do_train", "--do_eval", "--do_test", "--no_cuda"]
    argv += ["--task_name", TASKS[script], "--data_dir", str(folder / "sets"), "--output_dir", str(output_dir)]
    argv += ["--load_model_path", str(folder / "encoder"), "--max_seq_length", "40", "--learning_rate", "1e-3"]
    argv += ["--train_batch_size", "4", "--gradient_accumulation_steps", "2", "--eval_batch_size", "2"]
    return [*argv, "--num_train_epochs", "2", "--logging_steps", "2", "--save_steps", "5", *flags]


def undisturbed(script: str, folder: Path) -> Path:
    """The folder of a run that is not stopped."""
    output_dir = folder / f"{script}-whole"
    process = launch(command(script, folder, output_dir), folder / "log")
    if process.wait():
        raise RuntimeError((folder / "log").read_text(encoding="utf-8"))
    return output_dir


def disturbed(script: str, folder: Path, output_dir: Path, chance: random.Random, kills: int) -> list[dict]:
    """Kill a run at random moments, up to `kills` times, resume it each time, and finally let it end.

    A kill comes up to a quarter of the run after training began or resumed, plus up to `JITTER` seconds, whatever the
    run is doing then. Returns what each kill left behind.
    """
    done = []
    lines = len((folder / f"{script}-whole" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    while True:
        resume = ["--resume"] if (output_dir / "results.json").exists() else []
        process = launch(command(script, folder, output_dir, *resume), folder / "log")
        if len(done) < kills:
            wait_for_lines(process, output_dir, chance.randint(0, lines // 4))
            time.sleep(chance.uniform(0, JITTER))
            process.kill()
        status = process.wait()
        if status == 0:
            return done
        if status != -9:
            raise RuntimeError((folder / "log").read_text(encoding="utf-8"))
        done.append({"script": script, **left_behind(output_dir)})


def launch(argv: list[str], log: Path) -> subprocess.Popen:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as file:
        return subprocess.Popen(argv, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)


def wait_for_lines(process: subprocess.Popen, output_dir: Path, more: int) -> None:
    """Wait until the run is training and has logged `more` lines since, or until it ends."""
    results, log = output_dir / "results.json", output_dir / "metrics.jsonl"
    begun = _changed(results)
    while process.poll() is None and _changed(results) == begun:
        time.sleep(0.001)
    had = None
    while process.poll() is None:
        lines = log.read_bytes().count(b"\n") if log.exists() else 0
        had = lines if had is None else had
        if lines >= had + more:
            return
        time.sleep(0.001)


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def left_behind(output_dir: Path) -> dict:
    """What a killed run left behind: its last good state, and the files or folders that it was writing."""
    from training.state import damage

    states = sorted((output_dir / "states").glob("[0-9]*"))
    good = [state.name for state in states if damage(state) is None]
    return {
        "last_state": good[-1] if good else None,
        "damaged_states": len(states) - len(good),
        "half_written": sorted(path.name for path in output_dir.rglob(".*.tmp")),
    }


def differences(folder: Path, expected: Path) -> list[str]:
    """The files in which two finished runs differ, ignoring times and arguments in results.json."""
    ours, theirs = (
        {path.relative_to(each) for path in each.rglob("*") if path.is_file()} for each in (folder, expected)
    )
    return sorted(map(str, ours ^ theirs)) + [
        str(name) for name in sorted(ours & theirs) if _content(folder / name) != _content(expected / name)
    ]


def _content(path: Path):
    if path.suffix in (".bin", ".safetensors"):
        from models.checkpoints import read_state_dict

        return {name: (tensor.dtype, tensor.numpy().tobytes()) for name, tensor in read_state_dict(path).items()}
    if path.name != "results.json":
        return path.read_bytes()
    results = json.loads(path.read_text(encoding="utf-8"))
    for record in (*results["epochs"], results["best"]):
        record.pop("seconds")
    # Without the arguments, which include the run's folder and --resume, and without its segments.
    return {name: value for name, value in results.items() if name not in ("args", "segments")}


def report(results: dict) -> str:
    """The outcome of the kills, as text."""
    kills = results["kills"]
    writing = sum(bool(kill["half_written"]) for kill in kills)
    damaged = sum(kill["damaged_states"] for kill in kills)
    same = sum(not run["different"] for run in results["runs"])
    return (
        f"{len(kills)} kills, {writing} of them while a file was being written; {damaged} damaged states;"
        f" {same} of {len(results['runs'])} runs ended with the same bits as the undisturbed ones"
    )


def make_data(folder: Path, rows: int) -> None:
    """Write files like SST-2, DREAM and WNUT-2017: `rows` training rows, and an eighth as many dev and test rows."""
    counts = {"train": rows, "dev": rows // 8 + 1, "test": rows // 8 + 1}
    wnut = {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"}
    for name in ("sst-2", "dream", "wnut17"):
        (folder / name).mkdir(parents=True)
    for split, count in counts.items():
        chance = random.Random(split)
        sentences = [chance.choices(WORDS, k=chance.randint(3, 9)) for _ in range(count)]
        texts = [" ".join(words) for words in sentences]
        if split == "test":
            lines = ["index\tsentence", *(f"{index}\t{text}" for index, text in enumerate(texts))]
        else:
            lines = ["sentence\tlabel", *(f"{text}\t{len(text) % 2}" for text in texts)]
        (folder / "sst-2" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        dialogues = []
        for index, text in enumerate(texts):
            choices = chance.sample(WORDS, 3)
            question = {"question": "what is it?", "choice": choices, "answer": choices[index % 3]}
            dialogues.append([[f"M: {text}", f"W: {chance.choice(texts)}"], [question], str(index)])
        (folder / "dream" / f"{split}.json").write_text(json.dumps(dialogues), encoding="utf-8")
        tagged = ["".join(f"{word}\t{_tag(word)}\n" for word in words) for words in sentences]
        (folder / "wnut17" / wnut[split]).write_text("\n".join(tagged), encoding="utf-8")


def _tag(word: str) -> str:
    return "B-person" if word in WORDS[::4] else "O"


def make_encoder(folder: Path) -> None:
    """Write a tiny random BERT with dropout, and a tokenizer for `WORDS`, as a Hugging Face folder."""
    import torch
    import transformers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = list("abcdefghijklmnopqrstuvwxyz:?")
    pieces = [*special, *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=64)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.3,  # wide, so that the adversaries neither keep nor mask everything
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.2,
    )
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    run_script(main)
