"""The model card in `best/`: how the model was trained, its scores, and how to load it."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from models.encoders import PACKAGES
from models.methods import METHODS

# Distinguishes a card written by a run from the user's own.
MARK = "adversarial-self-attention"
CARD = "README.md"
# Suffix of the model's class -> the Hub's name of its task.
PIPELINES = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
}
SETTINGS = (
    *("learning_rate", "train_batch_size", "num_train_epochs", "max_train_steps", "lr_scheduler_type"),
    *("warmup_proportion", "weight_decay", "max_grad_norm", "max_seq_length", "optimizer", "seed"),
    *("mlm_probability", "whole_word_mask", "no_packing"),
)


def model_card(results: Mapping, model_class: str) -> str:
    """The text of the card; it depends only on the arguments.

    Args:
        results: the content of `results.json` after the best epoch so far.
        model_class: the name of the class that loads the model.
    """
    args, best = results["args"], results["best"]
    encoder, task, method = args["load_model_path"], args["task_name"], args["method"]
    name = Path(encoder).name
    pipeline = next((tag for end, tag in PIPELINES.items() if model_class.endswith(end)), None)
    evaluated = Path(args["eval_file"]).name if args.get("eval_file") else args.get("eval_on", "dev")
    scores = {metric: value for metric, value in (best.get("metrics") or {}).items() if value is not None}
    scored = [
        EvalResult(
            task_type=pipeline or "other",
            dataset_type=task,
            dataset_name=task,
            dataset_split=evaluated,
            metric_type=metric,
            metric_value=round(value, 4),
        )
        for metric, value in scores.items()
    ]
    local = encoder in PACKAGES or Path(encoder).exists()
    data = ModelCardData(
        base_model=None if local else encoder,
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=[MARK, method],
        model_name=f"{name}-{task}-{method}",
        eval_results=scored or None,
    )
    done, plainly = ("trained further", "training") if pipeline == "fill-mask" else ("fine-tuned", "fine-tuning")
    how = f"plain {plainly}" if method == "naive" else f"`--method {method}` of Adversarial Self-Attention"
    settings = {flag: args.get(flag) for flag in (*METHODS[method].flags, *SETTINGS)}
    rows = [f"| {flag} | {value} |" for flag, value in settings.items() if value not in (None, "")]
    metrics = [f"| {metric} | {value:.2f} |" for metric, value in scores.items()]
    versions = {package: number for package, number in results["versions"].items() if number}
    lines = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name} {done} on {task}",
        f"`{name}` {done} on {task} ({results['examples'].get('train')} rows) by {how}; epoch"
        f" {best['epoch']} (counted from 0), after {best['global_step']} steps, the"
        f" {'best' if metrics else 'last'} of its run."
        " The adversaries, which only training needs, are not in this folder.",
        "## Scores",
        "\n".join([f"| on the {evaluated} set | |", "|---|---|", *metrics]) if metrics else "It was not evaluated.",
        "Of one seed: other seeds give other scores, often by more than methods differ." if metrics else "",
        "## Use",
        f"```python\nfrom transformers import AutoTokenizer, {model_class}\n\n"
        f'model = {model_class}.from_pretrained("best")\ntokenizer = AutoTokenizer.from_pretrained("best")\n```',
        "## Training",
        "\n".join(["| setting | |", "|---|---|", *rows, f"| precision | {results['precision']} |"]),
        "With " + ", ".join(f"{package} {number}" for package, number in versions.items()) + ".",
        "## Licence and limits",
        "The licences and limits of the encoder and of the training data apply; they are not recorded here.",
    ]
    return "\n\n".join(filter(None, lines)) + "\n"


def is_card(path: Path) -> bool:
    """Whether a file is a model card written by a run."""
    try:
        return path.name == CARD and MARK in path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
