"""A script in double precision, its figures too: what then differs between runs is no rounding."""

import torch

import training.run

load_pretrained = training.run.load_pretrained


def in_double(setattr=setattr) -> None:
    """Arrange for it, with `setattr` or pytest's of that name."""
    setattr(training.run, "load_pretrained", lambda *given: load_pretrained(*given).double())
    setattr(torch.Tensor, "float", torch.Tensor.double)
