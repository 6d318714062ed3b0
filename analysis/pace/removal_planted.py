"""Planted recovery: sparse combinations of real atoms with noise, of which everything is known."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.solvers.elastic_net import ElasticNet
from contrans_lens.pace.solvers.omp import OMP
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.projection import OrthogonalProjection
from contrans_lens.pace.solvers.solver import Solver

PLANTED = (2, 4, 8, 16)
N_ROWS = 100
NOISE = 0.1
"""Norm of the noise, as a share of what is planted."""
ALPHAS = (0.05, 0.01)
Numbers = dict[str, Any]


def planted(dictionary: ConceptDictionary, point: str) -> list[Numbers]:
    """How much of the support is found, and how far what is removed of a topic is from what was planted of it.

    ``removal_error``: ``||D_I c_I - D_I c*_I|| / ||D_I c*_I||``, I the topic of the first planted atom, ``c*`` what was
    planted. ``spurious``: ``||D_I c_I|| / ||z||`` for a topic of which nothing was planted.
    """
    atoms = torch.as_tensor(dictionary.at(point)).float()
    prepared, found = PreparedAtoms.of(atoms), []
    flags = torch.tensor([[each == topic for each in dictionary.topics] for topic in dictionary.topics])
    for n_planted in PLANTED:
        rows, truth = _rows(atoms, n_planted)
        solvers: list[tuple[str, Solver]] = [("OMP, k = planted", OMP(n_planted))]
        solvers += [(f"elastic net {alpha:g}", ElasticNet(alpha)) for alpha in ALPHAS]
        solvers.append(("projection", OrthogonalProjection()))
        first = truth[1][:, 0]
        absent = _absent(flags, truth[0] != 0)
        for name, solver in solvers:
            row: Numbers = {"planted": n_planted, "solver": name}
            if solver.scope == "dictionary":
                codes = solver.decompose(prepared, rows).dense()
                row |= _support(codes, truth[0] != 0, n_planted)
                taken, other = ((codes * flags[of]) @ atoms for of in (first, absent))
            else:
                taken, other = (_alone(solver, atoms, flags[of], rows) for of in (first, absent))
            true = (truth[0] * flags[first]) @ atoms
            row["removal_error"] = float(((taken - true).norm(dim=1) / true.norm(dim=1)).mean())
            row["spurious"] = float((other.norm(dim=1) / rows.norm(dim=1)).mean())
            found.append(row)
    return found


def _rows(
    atoms: Float[Tensor, "atom d_model"], n_planted: int
) -> tuple[Float[Tensor, "row d_model"], tuple[Float[Tensor, "row atom"], Int[Tensor, "row planted"]]]:
    """Activations; their true coefficients and atoms."""
    generator = torch.Generator().manual_seed(n_planted)
    support = torch.stack([torch.randperm(len(atoms), generator=generator)[:n_planted] for _ in range(N_ROWS)])
    weights = 0.5 + torch.rand(support.shape, generator=generator)
    truth = torch.zeros(N_ROWS, len(atoms)).scatter_(1, support, weights)
    signal = truth @ atoms
    noise = torch.nn.functional.normalize(torch.randn(signal.shape, generator=generator), dim=1)
    return signal + NOISE * signal.norm(dim=1, keepdim=True) * noise, (truth, support)


def _support(codes: Float[Tensor, "row atom"], truth: Bool[Tensor, "row atom"], n_planted: int) -> Numbers:
    chosen, largest = codes != 0, torch.zeros_like(truth)
    largest.scatter_(1, codes.abs().topk(n_planted, dim=1).indices, True)
    hits = (chosen & truth).sum(1).double()
    return {
        "recall": float((hits / n_planted).mean()),
        "precision": float((hits / chosen.sum(1).clamp_min(1)).mean()),
        "recall_of_largest": float(((largest & truth).sum(1).double() / n_planted).mean()),
        "count": float(chosen.sum(1).double().mean()),
    }


def _absent(flags: Bool[Tensor, "atom atom"], planted_atoms: Bool[Tensor, "row atom"]) -> Int[Tensor, " row"]:
    """For each row an atom of whose topic nothing was planted."""
    generator = torch.Generator().manual_seed(0)
    shares = (planted_atoms.float() @ flags.float().T) > 0
    return (torch.rand(shares.shape, generator=generator) - shares.float()).argmax(1)


def _alone(
    solver: Solver,
    atoms: Float[Tensor, "atom d_model"],
    flags: Bool[Tensor, "row atom"],
    rows: Float[Tensor, "row d_model"],
) -> Float[Tensor, "row d_model"]:
    """What a solver that sees undesirable atoms alone takes out of each row."""
    taken = []
    for flagged, row in zip(flags, rows, strict=True):
        own = PreparedAtoms.of(atoms[flagged])
        taken.append(solver.decompose(own, row[None]).combine(own.atoms))
    return torch.cat(taken)
