"""What the tests of removals share: a small dictionary, removals on it, and another way to what they take out."""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet as CoordinateDescent

from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.removal import removals
from contrans_lens.pace.solvers import ElasticNet
from tests.interventions.cases import HOOK, LATER
from tests.tiny_models import D_MODEL

N_ATOMS = 40
NAMES = tuple(f"concept {index}" for index in range(N_ATOMS))
UNWANTED = NAMES[:12]
ALPHA, TAU = 0.02, 0.9
SOLVER = ElasticNet(ALPHA, TAU)


def dictionary(points=(HOOK, LATER), **options):
    generator = torch.Generator().manual_seed(7)
    atoms = {}
    for point in points:
        rows = torch.randn(N_ATOMS, D_MODEL, generator=generator)
        atoms[point] = rows / rows.norm(dim=1, keepdim=True)
    return ConceptDictionary(NAMES, ("",) * N_ATOMS, tuple(points), atoms, **options)


def removing(*points, unwanted=UNWANTED, **options):
    return removals(dictionary(), unwanted, points or (HOOK,), solver=options.pop("solver", SOLVER), **options)


def taken_out(states, point=HOOK, unwanted=UNWANTED):
    """``D_I c_I`` of each row by scikit-learn, from the problem as the paper writes it."""
    atoms = dictionary().at(point).double().numpy()
    flags = [name in unwanted for name in NAMES]
    rows = []
    for state in states.double().numpy():
        norm = (state**2).sum() ** 0.5
        # scikit-learn divides the squares by the number of samples, here d_model
        solver = CoordinateDescent(
            alpha=ALPHA / D_MODEL, l1_ratio=TAU, fit_intercept=False, tol=1e-14, max_iter=1_000_000
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.fit(atoms.T, state / norm)
        rows.append((solver.coef_ * flags) @ atoms * norm)
    return torch.tensor(np.array(rows), dtype=torch.float32)
