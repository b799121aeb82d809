"""The two protocols compared on the same batches: keep-mask penalty, divergence, and fully masked rows.

python -m benchmarks.protocols --data_dir data/sets

The model is the pretrained encoder with a new head and new adversaries, as at the first step of training. Each figure
is the mean over the same batches of the training set, with dropout. Needs SST-2, STS-B and WNUT-2017.
"""

import argparse
from pathlib import Path

from data.readers import read_set, task_folder
from data.tasks import SENTENCE_TASKS, TOKEN_TASKS
from training.flags import natural, positive_int
from utils import Parser, run_script, write_json

FIGURES = ("penalty", "divergence", "fully_masked")
# (task, transformers' classes of its head and collator, the function in data/features.py)
CASES = (
    (SENTENCE_TASKS["SST-2"], "AutoModelForSequenceClassification", "DataCollatorWithPadding", "sentence_features"),
    (SENTENCE_TASKS["STS-B"], "AutoModelForSequenceClassification", "DataCollatorWithPadding", "sentence_features"),
    (
        TOKEN_TASKS["WNUT-2017"],
        "AutoModelForTokenClassification",
        "DataCollatorForTokenClassification",
        "word_features",
    ),
)


def main() -> None:
    """Measure, print a Markdown table, and write the figures as JSON to `--output`."""
    args = parse_arguments()
    import torch  # takes seconds, like all imports inside functions here

    from training.versions import versions

    with torch.no_grad():
        rows = [row for case in CASES for row in measure(args, *case)]
    print("| task | figure | release | corrected |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['task']} | {row['figure'].replace('_', ' ')} | {row['release']:.4g} | {row['corrected']:.4g} |")
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        settings = {name: value for name, value in vars(args).items() if name != "output"}
        write_json(args.output, {"args": settings, "versions": versions(), "rows": rows})


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", default="data/sets")
    parser.add_argument("--load_model_path", default="all-MiniLM-L6-v2")
    parser.add_argument("--batches", type=positive_int, default=5, help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="(default: %(default)s)")
    parser.add_argument("--max_seq_length", type=positive_int, default=128, help="(default: %(default)s)")
    parser.add_argument("--seed", type=natural, default=42, help="(default: %(default)s)")
    parser.add_argument("--output", help="a JSON file to write")
    return parser.parse_args()


def measure(args: argparse.Namespace, task, auto_class: str, collator: str, featurize: str) -> list[dict]:
    """One row for each of `FIGURES`: its mean under each protocol."""
    import torch
    import transformers
    from accelerate.utils import set_seed

    from data import features as making
    from models.asa import PROTOCOLS, AsaModel
    from models.encoders import attention_implementation, load_config, load_pretrained
    from models.heads import named_labels
    from models.tokenizer import load_tokenizer

    head = getattr(transformers, auto_class)
    name = args.load_model_path
    config = load_config(name, None, None, **named_labels(task.labels))
    tokenizer = load_tokenizer(name, None, lower_case=False, slow=False)
    examples = read_set(task, task.train, task_folder(args.data_dir, task.name), labelled=True)
    features = getattr(making, featurize)(examples[: args.batches * args.batch_size], tokenizer, args.max_seq_length)
    means = {figure: {"task": task.name, "figure": figure} for figure in FIGURES}
    for protocol in PROTOCOLS:
        set_seed(args.seed)
        attention = attention_implementation(config, None, training=False, on_cpu=True)  # SDPA where the type has it
        model = AsaModel(load_pretrained(head, name, config, None, attention), protocol=protocol).train()
        padding = "max_length" if protocol == "release" else "longest"
        collate = getattr(transformers, collator)(tokenizer, padding=padding, max_length=args.max_seq_length)
        outputs = []
        for start in range(0, len(features), args.batch_size):
            set_seed(start)
            rows = range(start, min(start + args.batch_size, len(features)))
            outputs.append(model(**collate([features[row] for row in rows])))
        for figure in FIGURES:
            means[figure][protocol] = torch.stack([output[figure] for output in outputs]).mean().item()
    return list(means.values())


if __name__ == "__main__":
    run_script(main)
