"""run_sent_clas.py in double precision, its figures too: what then differs between runs is no rounding.

As a program under torchrun, the arguments of the script; imported, `in_double` for a run in the test's own process.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import torch

import run_sent_clas
import training.loop
from utils import run_script

load_pretrained = training.loop.load_pretrained


def in_double(setattr=setattr) -> None:
    """Arrange for it, with `setattr` or pytest's of that name."""
    setattr(training.loop, "load_pretrained", lambda *given: load_pretrained(*given).double())
    setattr(torch.Tensor, "float", torch.Tensor.double)


if __name__ == "__main__":
    in_double()
    sys.argv[0] = "run_sent_clas.py"
    run_script(run_sent_clas.main)
