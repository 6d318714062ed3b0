"""Dictionaries and activations for the tests of the solvers, and the special cases of the written-out fixtures."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contrans_lens.pace.solvers import PreparedAtoms

OBLIQUE = torch.tensor([[1.0, 0.0], [0.5, 3**0.5 / 2]])
OBLIQUE_ACTIVATION = torch.tensor([[3.5, 1.5 * 3**0.5]])
CHAIN = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0.6, 0.8]])
CHAIN_ACTIVATION = torch.tensor([[2.0, 1, 2]])


def random_atoms(n: int, d: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    """Unit atoms; with ``mean`` they share a direction, with cosine about ``mean`` to it."""
    generator = torch.Generator().manual_seed(seed)
    noise = normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)
    shared = normalize(torch.randn(d, generator=generator, dtype=torch.float64), dim=0)
    return normalize(mean * shared + (1 - mean**2) ** 0.5 * noise, dim=1).float()


def mixed_activations(atoms: Tensor, rows: int, seed: int = 1, used: int = 10, noise: float = 0.5) -> Tensor:
    """Sums of some atoms with noise, of norms from 1 to 100."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(rows):
        chosen = torch.randperm(len(atoms), generator=generator)[:used]
        weights = torch.rand(len(chosen), generator=generator) + 0.5
        weights *= torch.where(torch.rand(len(chosen), generator=generator) < 0.2, -1, 1)
        signal = normalize(weights @ atoms[chosen], dim=0)
        made.append(signal + noise * normalize(torch.randn(atoms.shape[1], generator=generator), dim=0))
    return torch.stack(made) * torch.logspace(0, 2, rows)[:, None]


def both(atoms: Tensor) -> list[PreparedAtoms]:
    """Prepared with the Gram matrix and without."""
    return [PreparedAtoms.of(atoms, gram=True), PreparedAtoms.of(atoms, gram=False)]
