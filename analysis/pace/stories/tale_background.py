"""How much of an activation is what all texts share, which no concept atom holds?"""

from typing import Any

import torch
from tale_lab import Lab
from tale_quality import path_states

from contrans_lens.evaluation import bootstrap_mean_cis
from contrans_lens.pace.solvers import OMP, PreparedAtoms
from contrans_lens.residuals import capture

K = 8


def background(lab: Lab) -> dict[str, Any]:
    """By hook point: share of the mean state in the squared norm, and OMP's error with and without it as an atom.

    Atoms are directions of *differences* between stimuli, so the mean cancels in them. The extra atom is the mean over
    all stimuli; the states are others, those of the sparsity path.
    """
    dictionary = lab.dictionaries["word"]
    stimuli = [text for one in lab.concepts["stop"] for text in one.stimuli]
    store = capture(lab.model, stimuli, lab.hook_points)
    found = {}
    for point in lab.hook_points:
        states, atoms = path_states(lab, point), dictionary.at(point).float()
        mean = store.tensor(point).float().mean(0)
        errors = []
        for rows in (atoms, torch.cat([atoms, mean[None] / mean.norm()])):
            left = states - OMP(K).decompose(PreparedAtoms.of(rows), states).combine(rows)
            errors.append((left.norm(dim=1) / states.norm(dim=1)).double())
        intervals = bootstrap_mean_cis(torch.stack(errors, dim=1), ("",) * len(states))
        shared = float(states.mean(0).square().sum() / states.square().sum(1).mean())
        found[point] = {
            "share": shared,
            "error": [intervals[0].value, intervals[0].low, intervals[0].high],
            "error_with_mean": [intervals[1].value, intervals[1].low, intervals[1].high],
        }
    return {"k": K, "layers": found}
