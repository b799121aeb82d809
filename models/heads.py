"""The head of a model: its classes, and whether a checkpoint's own head is kept."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from utils import log

# The kinds of heads whose weights have the same names.
HEADS = ("ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification")
# A multiple-choice model has one output per choice and no classes, whatever its encoder was trained for.
NO_CLASSES = {
    "problem_type": None,
    "id2label": {0: "LABEL_0", 1: "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
}


def named_labels(labels: tuple[str, ...]) -> dict:
    """The changes to a configuration that give a model these classes, of which one is right; if none, a regression."""
    if not labels:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def settle_head(model, new: list[str], given: str, own: PreTrainedConfig, order_of: Callable) -> list[str]:
    """Keep a checkpoint's head or make a new one; return the names of all new weights of the model."""
    head = {weight for weight in model.state_dict() if not weight.startswith(f"{model.base_model_prefix}.")}
    loaded = head.difference(new)
    words = class_words(own)
    order = order_of(words) if loaded == head and same_head(own, type(model)) else None
    if order is not None:
        reorder_classes(model, order)
        log.info(f"{given}: its head is kept (classes {', '.join(words)})")
        return new
    if loaded:
        remake_head(model)
    if loaded or _kind(own):
        log.info(f"{given}: its head is not known to be one for this task (classes {', '.join(words)}): made anew")
    return sorted({*new, *head})


def class_words(config: PreTrainedConfig) -> list[str]:
    """The names of a model's classes, in order; `LABEL_<i>` for a class without one."""
    return [str(word) for _, word in sorted((config.id2label or {}).items())]


def same_head(config: PreTrainedConfig, model_class: type) -> bool:
    """Whether a folder's head may be of that kind: its configuration does not name another kind of `HEADS`."""
    return not _kind(config) or model_class.__name__.endswith(_kind(config))


def _kind(config: PreTrainedConfig) -> str:
    """The kind of `HEADS` that a folder's configuration names; empty if none."""
    name = (config.architectures or [""])[0]
    return next((kind for kind in HEADS if name.endswith(kind)), "")


def reorder_classes(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Reorder the outputs of a classifier: output i becomes the former output `order[i]`."""
    linear = [module for child in _head(model) for module in child.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        for weight in linear.parameters():
            weight.copy_(weight[list(order)])


def remake_head(model: PreTrainedModel) -> None:
    """Initialise a head's weights as if the checkpoint had none."""
    for child in _head(model):
        for weight in child.parameters():
            weight._is_hf_initialized = False  # type: ignore[attr-defined]  # set by transformers, in no stub
        child.apply(model._init_weights)


def _head(model: PreTrainedModel) -> list[nn.Module]:
    return [child for name, child in model.named_children() if name != model.base_model_prefix]
