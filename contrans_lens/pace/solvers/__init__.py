"""Sparse decompositions of activations on a dictionary's atoms, batched."""

from contrans_lens.pace.solvers.certificate import Certificate, kkt_certificate
from contrans_lens.pace.solvers.elastic_net import ElasticNet
from contrans_lens.pace.solvers.omp import OMP
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.projection import OrthogonalProjection, RidgeProjection, VectorAddition
from contrans_lens.pace.solvers.solver import Solver, solver_from_dict

__all__ = [
    "OMP",
    "Certificate",
    "ElasticNet",
    "OrthogonalProjection",
    "PreparedAtoms",
    "RidgeProjection",
    "Solver",
    "VectorAddition",
    "kkt_certificate",
    "solver_from_dict",
]
