"""A random direction: the control every concept vector is compared with."""

import torch
from jaxtyping import Float
from torch import Tensor


def random_direction(layers: int, d_model: int, seed: int = 0) -> Float[Tensor, "layer d_model"]:
    """Unit vectors uniform on the sphere, float64, drawn on the CPU so a seed means the same everywhere."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(layers, d_model, dtype=torch.float64, generator=generator)
    return drawn / drawn.norm(dim=1, keepdim=True)
