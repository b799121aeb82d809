"""The liveness of the adversaries, measured while they train."""

import numpy as np
import torch

from models.asa import AsaModel
from models.divergence import IGNORED_LABEL
from models.liveness import divergences
from training.evaluation import Run


def measure(run: Run, parts: list[dict[str, torch.Tensor]], step: int) -> dict[str, float | None]:
    """Measure `liveness` after an optimizer step, on that step's rows, over all processes; each must call it.

    Training is not affected: the random masks depend only on seed, step and process.

    Returns:
        An empty dict if the method has no adversaries. `liveness` is None if the random masks change no prediction, for
        example because nothing is masked.
    """
    model, device = run.accelerator.unwrap_model(run.model), run.accelerator.device
    if not isinstance(model, AsaModel) or next(model.adversaries.parameters(), None) is None:
        return {}
    seed = np.random.SeedSequence([run.args.seed, step, run.accelerator.process_index]).generate_state(1)
    generator = torch.Generator(device).manual_seed(int(seed[0]))
    sums = torch.zeros(2, device=device)
    for part in parts:
        labels = part["labels"]
        count = (labels != IGNORED_LABEL).sum() if model.of_words else len(labels)  # divergence: a mean over these
        sums += count * divergences(model, generator, **part)
    learned, random = run.accelerator.reduce(sums).tolist()
    return {"liveness": learned / random if random > 0 else None}
