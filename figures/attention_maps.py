"""Draw attention maps of a sentence: without masks, and with the adversary's masks.

python -m figures.attention_maps --model_file runs/sst2_asa/2_pytorch_model.bin --load_model_path all-MiniLM-L6-v2 \
    --task_name SST-2 --text "the best thing about the film is its length : it is short"

With --plain_model_file, the left map is that of another model, fine-tuned without ASA.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.classes import match_classes, saved_labels
from data.examples import Example
from data.task_kinds import SentenceTask
from data.tasks import SENTENCE_TASKS, find_task
from figures.drawing import QUANTITIES, WIDTH, picture
from training.flags import share
from training.saved_settings import settings_of_run
from utils import InputError, Parser, run_script

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from models.asa import AsaModel

MAX_TOKENS = 48  # more cannot be read at the width of a README
TITLE_CHARACTERS = 62  # per line above one map


@dataclass
class Pass:
    """The attention in one forward pass of a sentence.

    attention: (N, h, L, L) probabilities; the last axis is the attended token, and sums to 1.
    masked: (N, L, L), whether a layer's adversary masked the pair. A fully masked row stays unmasked (see `models.asa`)
        and has no pair marked.
    logits: (classes,).
    """

    attention: np.ndarray
    masked: np.ndarray
    logits: np.ndarray


@dataclass
class Panel:
    """One map: its title, its model's prediction, and its probabilities (L, L) and masked pairs."""

    name: str
    title: str
    attention: np.ndarray
    masked: np.ndarray


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the requested maps.

    Raises:
        InputError: an argument or an input file cannot be used. Nothing has been written by then.
    """
    args = parse_arguments(argv)
    task = task_of(args)
    words = label_words(task, args.label_words)
    # Imported here because they take seconds to load: --help and argument errors do not have to wait for them.
    from transformers import AutoModelForSequenceClassification

    from models.checkpoints import load_saved, saved_classes
    from models.encoders import load_config
    from models.heads import named_labels
    from models.tokenizer import fit_together, load_tokenizer

    config = load_config(args.load_model_path, None, None, **named_labels(task.labels))
    tokenizer = load_tokenizer(args.load_model_path, None, args.do_lower_case, slow=False)
    fit_together(args.load_model_path, config, tokenizer)
    encoding = encode(task, args, tokenizer)
    tokens = [tokenizer.decode([token]).strip() for token in encoding["input_ids"][0].tolist()]
    model = load_asa(args.model_file, config, budget_of(args))
    plain_model = model.backbone
    if args.plain_model_file:
        auto_class = AutoModelForSequenceClassification
        order = None
        if Path(args.plain_model_file).is_dir():
            theirs = saved_classes(args.plain_model_file, "--plain_model_file")
            order = match_classes(task, theirs, f"--plain_model_file {args.plain_model_file}")
        given = (args.plain_model_file, config, "eager", order, "--plain_model_file")
        plain_model = load_saved(auto_class, *given).eval()

    left, clean, right = attend(plain_model, encoding), attend(model.backbone, encoding), attend(model, encoding)
    layer, head = choose(args, right)
    naive = "plain" if args.plain_model_file else "ASA"
    own = f"prediction: {predicted(clean, words)}, under the mask {predicted(right, words)}"
    own = textwrap.fill(own, TITLE_CHARACTERS, break_on_hyphens=False)
    panels = [
        Panel(
            "sa_map",
            f"Self-attention of the {naive} model\nprediction: {predicted(left, words)}",
            select(left.attention[layer], head),
            left.masked[layer],
        ),
        Panel(
            "asa_map",
            f"Adversarial self-attention of the ASA model\n{own}",
            select(right.attention[layer], head),
            right.masked[layer],
        ),
    ]
    heads = f"mean of {len(right.attention[layer])} heads" if head is None else f"head {head}"
    what = f"{task.name}, layer {layer} of 0 to {len(right.attention) - 1}, {heads}"
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder / "attention_maps.png", panels, tokens, what)
    for panel in panels:
        draw(folder / f"{panel.name}.png", [panel], tokens, what, panels)
    for panel in panels:
        print(panel.title.replace("\n", ": ", 1).replace("\n", " "))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = Parser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--model_file", required=True, help="<epoch>_pytorch_model.bin of a run with --method asa")
    parser.add_argument(
        "--asa_budget",
        type=share,
        metavar="BETA",
        help="the run's budget, if it used --method asa_budget (default: as recorded beside the file)",
    )
    parser.add_argument("--plain_model_file", help="a model fine-tuned without ASA, for the left map")
    parser.add_argument("--load_model_path", default="bert-base-uncased", help="the encoder that was fine-tuned")
    parser.add_argument(
        "--task_name",
        metavar="TASK",
        help=f"upper or lower case: {', '.join(SENTENCE_TASKS)} (default: own data, read from best/)",
    )
    parser.add_argument("--text", required=True, help="the sentence")
    parser.add_argument("--text_b", help="the second sentence of a pair")
    parser.add_argument("--label_words", nargs="+", metavar="WORD", help="names to show for the labels, in their order")
    parser.add_argument("--layer", type=int, help="layer to draw, from 0 (default: the one whose adversary masks most)")
    parser.add_argument("--head", default="mean", help="head to draw, from 0, or their mean (default)")
    parser.add_argument("--do_lower_case", action="store_true", help="if it was set in fine-tuning")
    parser.add_argument("--output_dir", default="figures", help="(default: %(default)s)")
    return parser.parse_args(argv)


def task_of(args: argparse.Namespace) -> SentenceTask:
    """The named task or, for a model of the user's own data, a task with the labels that its run saved.

    Raises:
        InputError: there is no task of that name, or the run did not save its labels.
    """
    if args.task_name is not None:
        return find_task(args.task_name, SENTENCE_TASKS)
    labels = saved_labels(args.model_file)
    if labels is None:
        raise InputError(
            f"--task_name is missing, and there is no best/ folder beside --model_file {args.model_file}, which would"
            " say the labels of data of your own: give the file where its run has left it"
        )
    texts = 1 if args.text_b is None else 2
    folder = Path(args.model_file).resolve().parent
    return SentenceTask(
        name=folder.name, text=((),) * texts, label=(), labels=labels, metrics=(), train=None, dev={}, test={}
    )


def label_words(task: SentenceTask, given: list[str] | None) -> tuple[str, ...]:
    """The names of the labels in the picture.

    Raises:
        InputError: there is not one word for each label.
    """
    if given is not None and len(given) != len(task.labels):
        raise InputError(f"--label_words: {task.name} has {len(task.labels)} labels ({', '.join(task.labels)})")
    return tuple(given or task.labels)


def encode(task: SentenceTask, args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """The batch with one sentence or pair.

    Raises:
        InputError: a sentence is missing or superfluous for the task, or there are too many tokens for a picture.
    """
    import torch

    from data.features import sentence_features

    texts = (args.text,) if args.text_b is None else (args.text, args.text_b)
    if len(texts) != len(task.text):
        needed = "a pair: give --text_b" if len(task.text) == 2 else "one sentence: leave out --text_b"
        raise InputError(f"--task_name {task.name}: the task takes {needed}")
    features = sentence_features([Example(texts, None, None)], tokenizer, min(MAX_TOKENS, tokenizer.model_max_length))
    if features.report["truncated_share"]:
        raise InputError(f"--text: more than {MAX_TOKENS} tokens, which no picture shows legibly; shorten it")
    return {name: torch.tensor([row]) for name, row in features[0].items()}


def budget_of(args: argparse.Namespace) -> float | None:
    """The row budget under which the model was trained; None for ASA's own rule.

    Raises:
        InputError: the run of the file was trained with another one than the one given.
    """
    trained = settings_of_run(args.model_file)
    if "method" not in trained:  # the file has left its run
        return args.asa_budget
    budget = trained.get("asa_budget") if trained["method"] == "asa_budget" else None
    if args.asa_budget not in (None, budget):
        own = "--method asa" if budget is None else f"--asa_budget {budget:g}"
        raise InputError(
            f"--asa_budget {args.asa_budget:g}: {args.model_file} was trained with {own}: leave the flag out"
        )
    return budget


def load_asa(path: str, config, budget: float | None = None) -> AsaModel:
    """The model with its adversaries, in evaluation mode; `budget` as for `AsaModel`.

    Raises:
        InputError: the file cannot be read, or has no adversaries.
    """
    from transformers import AutoModelForSequenceClassification

    from models.asa import AsaModel
    from models.checkpoints import ADVERSARY, load_release_checkpoint, read_state_dict

    if Path(path).is_dir():
        raise InputError(f"--model_file {path}: a folder holds no adversaries; give a run's <epoch>_pytorch_model.bin")
    state = read_state_dict(path)
    layers = {int(match[1]) for match in map(ADVERSARY.fullmatch, state) if match}
    if not layers:
        raise InputError(f"--model_file {path}: it holds no adversaries; give a file of a run with --method asa")
    backbone = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    try:
        model = AsaModel(backbone.float(), layers=layers, budget=budget).eval()
    except ValueError as error:
        raise InputError(f"--model_file {path}: a checkpoint of another model: {error}") from None
    load_release_checkpoint(model, path)
    return model


def attend(model: AsaModel | PreTrainedModel, encoding: dict[str, torch.Tensor]) -> Pass:
    """Run one pass of one sentence: adversarial for an `AsaModel`, otherwise plain. The attention must be eager."""
    import torch

    from models.asa import AsaModel
    from models.encoder_types import encoder_layers

    if not isinstance(model, AsaModel):
        with torch.inference_mode():
            output = model(**encoding, output_attentions=True)
        attention = torch.cat(output.attentions)  # (N, h, L, L)
        return _as_pass(attention, torch.zeros_like(attention[:, 0], dtype=torch.bool), output.logits)
    masked = []
    length, place, hidden = encoding["input_ids"].shape[1], model.encoder_type.mask, model.rule.hidden_score

    def note(layer, args: tuple, kwargs: dict) -> None:
        """Record the mask that the attention gets: this hook runs after the model's own."""
        bias = args[place] if len(args) > place else kwargs.get("attention_mask")  # (1, 1, L, L)
        if isinstance(bias, tuple):  # the layer's own mask, and a bias (1, L, L) of the scores
            bias = bias[1][None]
        nothing = torch.zeros(length, length, dtype=torch.bool)  # for a layer without an adversary
        # Pairs that the layer's own mask forbids, for example outside a window, have even lower values.
        chosen = nothing if bias is None else (bias[0, 0] <= hidden / 2) & (bias[0, 0] >= 2 * hidden)
        masked.append(nothing | chosen)

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in encoder_layers(model.backbone)]
    try:
        with torch.inference_mode(), model.adversarial_mode(encoding["attention_mask"]):
            output = model.backbone(**encoding, output_attentions=True)
    finally:
        for hook in hooks:
            hook.remove()
    return _as_pass(torch.cat(output.attentions), torch.stack(masked), output.logits)


def _as_pass(attention: torch.Tensor, masked: torch.Tensor, logits: torch.Tensor) -> Pass:
    return Pass(attention.numpy(), masked.numpy(), logits[0].numpy())


def choose(args: argparse.Namespace, adversarial: Pass) -> tuple[int, int | None]:
    """The layer and the head to draw; head None is the mean of the heads.

    Raises:
        InputError: there is no such layer or head.
    """
    layers, heads = adversarial.attention.shape[:2]
    layer = int(adversarial.masked.sum((1, 2)).argmax()) if args.layer is None else args.layer
    if not 0 <= layer < layers:
        raise InputError(f"--layer {layer}: the encoder has the layers 0 to {layers - 1}")
    if args.head == "mean":
        return layer, None
    if not (args.head.isdecimal() and int(args.head) < heads):
        raise InputError(f"--head {args.head}: the encoder has the heads 0 to {heads - 1}, or mean")
    return layer, int(args.head)


def select(attention: np.ndarray, head: int | None) -> np.ndarray:
    """(h, L, L) -> (L, L): one head, or the mean of all."""
    return attention.mean(0) if head is None else attention[head]


def predicted(result: Pass, words: tuple[str, ...]) -> str:
    """The label with its probability, or the score of a regression."""
    if not words:
        return f"score {result.logits[0]:.2f}"
    probabilities = np.exp(result.logits - np.logaddexp.reduce(result.logits))
    return f"{words[probabilities.argmax()]} {probabilities.max():.2f}"


def draw(path: Path, panels: list[Panel], tokens: list[str], what: str, scale: list[Panel] | None = None) -> None:
    """Write a picture of one or two maps.

    Args:
        scale: the maps that share the colour scale; by default those drawn.
    """
    from matplotlib.patches import Patch

    largest = max(panel.attention.max() for panel in scale or panels)
    side = WIDTH / 2
    with picture(path, side * len(panels) + 0.3, side + 0.6, "compressed") as figure:
        figure.suptitle(what)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            image = draw_map(axis, panel, tokens, largest)
        ticks = [tick for tick in TICKS if tick <= largest]
        figure.colorbar(
            image,
            ax=axes,
            shrink=0.7,
            pad=0.02,
            ticks=ticks,
            format="%g",
            label="attention probability (square-root scale)",
        )
        if any(panel.masked.any() for panel in panels):
            figure.legend(handles=[Patch(**MASKED, label="masked by the adversary")], loc="outside lower right")


TICKS = (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)
MASKED = {"facecolor": "white", "edgecolor": "#555555", "hatch": "//////", "linewidth": 0.0}


def draw_map(axis: Axes, panel: Panel, tokens: list[str], largest: float):
    """Draw a heat map with one token per row and column, masked pairs hatched; return the image, for a colour bar."""
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle

    image = axis.imshow(panel.attention, cmap=QUANTITIES, norm=PowerNorm(0.5, 0, largest))
    for row, column in zip(*panel.masked.nonzero(), strict=True):
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **MASKED))
    size = min(9.5, 150 / len(tokens))
    axis.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=size)
    axis.set_yticks(range(len(tokens)), tokens, fontsize=size)
    axis.set_xlabel("attended token (key)")
    axis.set_ylabel("attending token (query)")
    axis.set_title(panel.title)
    axis.tick_params(length=0)
    axis.grid(False)
    return image


if __name__ == "__main__":
    run_script(main)
