"""The liveness of the adversaries, measured while they train."""

import numpy as np
import torch

from models.asa import AsaModel
from models.divergence import IGNORED_LABEL
from models.liveness import divergences
from training.evaluation import Run


def measure(run: Run, parts: list[dict[str, torch.Tensor]], step: int) -> dict[str, float | None]:
    """`liveness` after an optimizer step, on the rows of that step, over all processes; called by each of them.

    Nothing that training does depends on it: the random masks follow from seed, step and process alone.

    Returns:
        Nothing, where the method has no adversaries. `liveness` is None where the random masks move no prediction, as
        where nothing is masked.
    """
    model, device = run.accelerator.unwrap_model(run.model), run.accelerator.device
    if not isinstance(model, AsaModel) or next(model.adversaries.parameters(), None) is None:
        return {}
    seed = np.random.SeedSequence([run.args.seed, step, run.accelerator.process_index]).generate_state(1)
    generator = torch.Generator(device).manual_seed(int(seed[0]))
    sums = torch.zeros(2, device=device)
    for part in parts:
        labels = part["labels"]
        count = (labels != IGNORED_LABEL).sum() if model.of_words else len(labels)  # what the divergence is a mean over
        sums += count * divergences(model, generator, **part)
    learned, random = run.accelerator.reduce(sums).tolist()
    return {"liveness": learned / random if random > 0 else None}
