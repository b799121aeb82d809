"""Adversarial Self-Attention and what it is compared with, as modules around a Hugging Face model.

Installed with pip, this package is called `adversarial_self_attention` and holds the files that need only PyTorch and
transformers (`AsaTrainer` also needs accelerate, like transformers' Trainer):

    from adversarial_self_attention import AsaModel
"""

import importlib

# Public name -> the module that has it. It is imported when the name is first asked for: the command line needs this
# package's table of methods, and need not wait for PyTorch.
EXPORTS = {
    "AsaModel": "asa",
    "AsaOutput": "asa",
    "AsaTrainer": "trainer",
    "FreeLB": "baselines",
    "R3F": "baselines",
    "RDrop": "baselines",
    "RandomMask": "baselines",
    "Smart": "baselines",
}
__all__ = list(EXPORTS)


def __getattr__(name: str):
    if name not in EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *EXPORTS])
