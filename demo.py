"""Fine-tune a small encoder on the DEMO task, once plainly and once with ASA, and print a table of both.

python demo.py
"""

import argparse
import json
from pathlib import Path

import run_sent_clas
from data.demo import write_demo
from utils import Parser, run_script

METHODS = ("naive", "asa")
SETTINGS = "--task_name DEMO --do_train --do_eval --fp16 --num_train_epochs 3 --learning_rate 1e-4 --logging_steps 25"


def main() -> None:
    """Write the data set, run run_sent_clas.py with each method, and print a table of the results."""
    args = parse_arguments()
    data_dir = Path(args.output_dir) / "data"
    write_demo(data_dir / "DEMO")
    for method in METHODS:
        where = ["--data_dir", data_dir, "--output_dir", folder(args, method), "--load_model_path", args.encoder]
        argv = [*SETTINGS.split(), *where, "--method", method, "--overwrite_output_dir"]
        print(f"\npython run_sent_clas.py {' '.join(map(str, argv))}", flush=True)
        run_sent_clas.main(list(map(str, argv)))
    print_table({method: json.loads((folder(args, method) / "results.json").read_text()) for method in METHODS})


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", default="all-MiniLM-L6-v2", help="(default: %(default)s)")
    parser.add_argument("--output_dir", default="runs/demo", help="(default: %(default)s)")
    return parser.parse_args()


def folder(args: argparse.Namespace, method: str) -> Path:
    return Path(args.output_dir) / method


def print_table(results: dict[str, dict]) -> None:
    """Print one line per method: the accuracies after the last epoch, and the training time in seconds."""
    print(f"\n{'method':8}{'in-distribution':>17}{'shifted':>10}{'seconds':>10}")
    for method, record in results.items():
        metrics = record["epochs"][-1]["metrics"]
        seconds = sum(epoch["seconds"] for epoch in record["epochs"])
        print(f"{method:8}{metrics['accuracy']:17.2f}{metrics['shifted/accuracy']:10.2f}{seconds:10.1f}")
    print("Accuracy in per cent after the last epoch; one seed each: this shows how ASA runs, not which is better.")


if __name__ == "__main__":
    run_script(main)
