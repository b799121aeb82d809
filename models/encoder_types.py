"""The encoder types that ASA is tested with, one row each, and those that it refuses, with the reason.

From this project, `models/asa.py` imports only this module, `budget.py` and `divergence.py`: copy the four files to use
ASA elsewhere.
"""

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

# The heads for which a divergence is defined: transformers' classes by model type.
HEADS = {
    "S": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "C": modeling_auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    "T": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "M": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
}
EAGER = ("eager",)
EAGER_AND_SDPA = ("eager", "sdpa")  # the kernels that accept any float mask and compute its gradient


@dataclass(frozen=True)
class EncoderType:
    """How ASA attaches to the encoders of one `config.model_type`.

    layers: dotted path from `base_model` to the list of encoder layers; "*" stands for each module in a list.
    norm: path from a pre-norm layer to the norm before its attention; the adversary then reads the norm's output.
    mask: position of the attention mask among the arguments of a layer's `forward`; the hidden states are argument 0.
    scores: only for an attention without float masks: path from a layer to a method whose result the attention adds to
        its scores; the adversary's bias is added to that result.
    attention: the attention implementations that transformers has for the type and that ASA works with.
    heads: the heads that transformers has for the type and that ASA works with, as letters of `HEADS`.
    never: settings that ASA does not work with: (name in the configuration, value, reason).
    """

    layers: str = "encoder.layer"
    norm: str = ""
    mask: int = 1
    scores: str = ""
    attention: tuple[str, ...] = EAGER_AND_SDPA
    heads: str = "SCTM"
    never: tuple[tuple[str, object, str], ...] = ()


DECODER = tuple((setting, True, "ASA is for encoders") for setting in ("is_decoder", "add_cross_attention"))
NO_SCORES = ("relative_attention", False, "its attention then has no place for a mask that carries a gradient")
ENCODER_TYPES = {
    "albert": EncoderType("encoder.albert_layer_groups.*.albert_layers"),
    "bert": EncoderType(),
    "camembert": EncoderType(),
    "data2vec-text": EncoderType(),
    "deberta": EncoderType(
        scores="attention.self.disentangled_att_bias",
        attention=EAGER,
        heads="STM",
        never=(NO_SCORES, ("talking_head", True, "it mixes the masked scores of different heads")),
    ),
    "deberta-v2": EncoderType(scores="attention.self.disentangled_attention_bias", attention=EAGER, never=(NO_SCORES,)),
    "distilbert": EncoderType("transformer.layer"),
    "electra": EncoderType(),
    "ernie": EncoderType(),
    "esm": EncoderType(norm="attention.LayerNorm", heads="STM"),
    "esmc": EncoderType("layers", norm="input_layernorm", heads="STM"),
    "eurobert": EncoderType("layers", norm="input_layernorm", heads="STM"),
    "gte": EncoderType("layers", heads="STM"),
    "ibert": EncoderType(
        mask=2,
        attention=EAGER,
        never=(("quant_mode", True, "its integers are scaled by the whole batch, padding included"),),
    ),
    "jina_embeddings_v3": EncoderType("layers", heads="STM"),
    "layoutlm": EncoderType(heads="STM"),
    "megatron-bert": EncoderType(norm="attention.ln", attention=EAGER),
    "mobilebert": EncoderType(),  # even without ASA, its last token reads the padding's embedding: best zero
    "modernbert": EncoderType("layers", norm="attn_norm"),  # Ettin is of this type too
    "mpnet": EncoderType(attention=EAGER),
    "nomic_bert": EncoderType("layers", heads="STM"),
    "rembert": EncoderType(attention=EAGER),
    "roberta": EncoderType(),
    "roberta-prelayernorm": EncoderType(norm="attention.LayerNorm"),
    "roc_bert": EncoderType(),
    "roformer": EncoderType(attention=EAGER, heads="STM"),  # even without ASA, its choices depend on padding
    "xlm-roberta": EncoderType(),
    "xlm-roberta-xl": EncoderType(norm="attention.self_attn_layer_norm"),
    "xmod": EncoderType(norm="attention.output.LayerNorm", mask=2),  # pre-norm only if `pre_norm` is set
}
# Types that were tried and do not work.
REFUSED_TYPES = {
    "big_bird": "its attention is sparse",
    "canine": "it shortens the sequence between layers, and its attention is local to chunks",
    "convbert": "its predictions depend on padding even without ASA",
    "flaubert": "its layers are not modules, so that ASA cannot hook into them",
    "fnet": "it has no attention",
    "funnel": "it shortens the sequence between layers",
    "longformer": "its attention is sparse",
    "luke": "its layers take words and entities as separate inputs",
    "nystromformer": "its predictions depend on padding even without ASA",
    "splinter": "it has only a head for question answering",
    "squeezebert": "it calls its layers in a way that skips their hooks",
    "xlm": "its layers are not modules, so that ASA cannot hook into them",
    "xlnet": "its layers read two streams with masks of different shapes",
}


def unsupported(model_type: str) -> str:
    """Why ASA refuses a model type, as the rest of a sentence that begins with the type; "" if it does not."""
    if model_type in ENCODER_TYPES:
        return ""
    because = f", as {REFUSED_TYPES[model_type]}" if model_type in REFUSED_TYPES else ""
    return f"is not supported{because}; use one of {', '.join(ENCODER_TYPES)}, which ASA is tested with"


def plain(backbone: nn.Module) -> nn.Module:
    """The Hugging Face model itself, without a PEFT wrapper."""
    adapted: Any = backbone
    return adapted.get_base_model() if hasattr(backbone, "get_base_model") else backbone


def encoder_type(backbone: nn.Module) -> EncoderType:
    """The row for a model.

    Raises:
        ValueError: the model type, the head, the attention implementation or a setting is not supported.
    """
    model = plain(backbone)
    name = type(model).__name__
    row = encoder_type_of(getattr(model, "config", None), name)
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"{name} is not a model of transformers: ASA does not know where its layers are")
    _check_head(model, row)
    if getattr(getattr(backbone, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError("prompt learning adds tokens that ASA does not know of: use another method of PEFT, as LoRA")
    implementation = model.config._attn_implementation
    if implementation not in row.attention:
        raise ValueError(
            f"attention implementation {implementation!r} gives the mask no gradient:"
            f" use one of {', '.join(row.attention)}"
        )
    # Read from the model, not its configuration: other heads ignore the setting.
    if getattr(model, "sparse_prediction", False):
        raise ValueError(f"{name} with sparse_prediction=True is not supported, as its logits leave out positions")
    return row


def encoder_type_of(config, name: str = "") -> EncoderType:
    """The row for a configuration; `name` is what an error calls a model without a type.

    Raises:
        ValueError: the model type or a setting is not supported.
    """
    model_type = getattr(config, "model_type", name)
    if why := unsupported(model_type):
        raise ValueError(f"model type {model_type!r} {why}")
    row = ENCODER_TYPES[model_type]
    for setting, value, reason in (*row.never, *DECODER):
        if getattr(config, setting, None) == value:
            raise ValueError(f"{model_type} with {setting}={value} is not supported, as {reason}")
    return row


def _check_head(model: PreTrainedModel, row: EncoderType) -> None:
    """Raise `ValueError` for a head of transformers that has no divergence; custom heads are not checked."""
    library = [each.__name__ for each in type(model).__mro__ if each.__module__.startswith("transformers.")]
    head = next((head for head, classes in HEADS.items() if classes.get(model.config.model_type) in library), "")
    if head and head not in row.heads:
        raise ValueError(f"{library[0]} is not supported, as its predictions depend on padding even without ASA")
    if not head and not library[0].endswith("PreTrainedModel"):
        raise ValueError(
            f"{library[0]} is not supported: ASA is for the heads of sequence classification, multiple choice,"
            " token classification and masked language modelling"
        )


def predicts_masked_words(backbone: nn.Module) -> bool:
    """Whether a model has transformers' head for masked language modelling, or a subclass of it."""
    model = plain(backbone)
    known = HEADS["M"].get(getattr(getattr(model, "config", None), "model_type", ""))
    return any(each.__name__ == known and each.__module__.startswith("transformers.") for each in type(model).__mro__)


def encoder_layers(backbone: nn.Module) -> list[nn.Module]:
    """The encoder layers of a supported model, in order; a shared layer is listed once.

    Raises:
        ValueError: the model is not supported.
    """
    model: Any = plain(backbone)
    row = encoder_type(backbone)
    modules: list[Any] = [model.base_model]
    try:
        for name in row.layers.split("."):
            modules = [child for module in modules for child in (module if name == "*" else [getattr(module, name)])]
    except AttributeError as error:
        raise ValueError(
            f"{type(model).__name__} does not have its layers where transformers has those of"
            f" {model.config.model_type} models ({row.layers}): {error}"
        ) from None
    found = [layer for layers in modules for layer in layers]
    # ModernBERT's, in transformers 4 and early 5: in most layers it replaces the mask that the adversary's is part of.
    if any("sliding_window_mask" in inspect.signature(layer.forward).parameters for layer in found):
        raise ValueError(
            f"{model.config.model_type} models of transformers {transformers.__version__} give their layers a second"
            " mask: use 5.23"
        )
    return found


def layer_calls(config) -> int:
    """The number of encoder layer calls: ALBERT calls one shared layer several times, each with its own adversary."""
    return config.num_hidden_layers * getattr(config, "inner_group_num", 1)


def hook_score_bias(attention: nn.Module, method: str) -> list:
    """Let an attention without float masks add a bias to its scores, as part of what `method` returns.

    DeBERTa turns its mask into booleans, which have no gradient. If the mask argument is a pair (mask, bias), with a
    bias (B, L, L), the bias is added to the method's result for the duration of that call. These hooks serve any model:
    where there are several, left by a model that was copied with the backbone or never detached, the first adds it.

    Returns:
        The handles of the hooks.
    """
    return [
        attention.register_forward_pre_hook(functools.partial(_add_bias, method=method), with_kwargs=True),
        # Also after an exception: checkpointing raises one to end the recomputation of a layer early.
        attention.register_forward_hook(functools.partial(_after_call, method=method), always_call=True),
    ]


def _add_bias(attention: nn.Module, args: tuple, kwargs: dict, method: str):
    mask = args[1] if len(args) > 1 else kwargs["attention_mask"]
    if not isinstance(mask, tuple):
        return None
    restore_scores(attention, method)
    mask, bias = mask
    scores = getattr(attention, method)

    def scores_and_bias(query: torch.Tensor, *others) -> torch.Tensor:
        """`query` and the scores have a heads dimension, or one dimension for rows x heads."""
        every_head = bias[:, None].expand(-1, attention.num_attention_heads, -1, -1)
        return scores(query, *others) + every_head.to(query.dtype).reshape(*query.shape[:-1], -1)

    setattr(attention, method, scores_and_bias)
    if len(args) > 1:
        return (args[0], mask, *args[2:]), kwargs
    return args, {**kwargs, "attention_mask": mask}


def _after_call(attention: nn.Module, args: tuple, output, method: str) -> None:
    restore_scores(attention, method)


def restore_scores(attention: nn.Module, method: str) -> None:
    """Restore an attention's original method. The hooks do so too, but not if Ctrl-C ends a call."""
    vars(attention).pop(method, None)
