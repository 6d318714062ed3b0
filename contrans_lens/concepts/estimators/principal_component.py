"""First principal components: of states about their mean, or of paired differences (RepE, ConTrans)."""

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.errors import ConceptError


def principal_component(
    positives: Float[Tensor, "positive layer d_model"], negatives: Float[Tensor, "negative layer d_model"]
) -> Float[Tensor, "layer d_model"]:
    """Unit direction of greatest variance of positives and negatives together, about their mean, float64.

    The sign is that of the labels: positives lie higher along it in the mean.
    """
    states = torch.cat([positives, negatives]).transpose(0, 1).to(torch.float64)
    direction = leading_direction(states - states.mean(1, keepdim=True))
    return orient(direction, positives.mean(0, dtype=torch.float64) - negatives.mean(0, dtype=torch.float64))


def paired_principal_component(
    positives: Float[Tensor, "positive layer d_model"], negatives: Float[Tensor, "negative layer d_model"]
) -> Float[Tensor, "layer d_model"]:
    """Unit direction of the greatest sum of squares of the differences ``p_i - n_i``, float64.

    The differences are not centred: their mean is the concept, and centring would remove it.

    Raises:
        ConceptError: the two sides do not pair up.
    """
    if positives.shape[0] != negatives.shape[0]:
        raise ConceptError(
            f"{positives.shape[0]} positives and {negatives.shape[0]} negatives are not pairs; use a "
            "paired contrast set, or method 'principal_component'."
        )
    differences = (positives.to(torch.float64) - negatives.to(torch.float64)).transpose(0, 1)
    return orient(leading_direction(differences), differences.mean(1))


def leading_direction(rows: Float[Tensor, "layer example d_model"]) -> Float[Tensor, "layer d_model"]:
    """First right singular vector of each layer's rows, from the smaller Gram matrix, all layers batched.

    A layer whose rows are all zero gives the zero vector.
    """
    examples, width = rows.shape[1:]
    if width <= examples:
        values, vectors = torch.linalg.eigh(rows.mT @ rows)
        return vectors[..., -1] * (values[:, -1:] > 0)
    _, vectors = torch.linalg.eigh(rows @ rows.mT)
    direction = (rows.mT @ vectors[..., -1:])[..., 0]
    return direction / direction.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def orient(
    direction: Float[Tensor, "layer d_model"], difference: Float[Tensor, "layer d_model"]
) -> Float[Tensor, "layer d_model"]:
    """Turn each direction to the side of the class difference; a PCA's own sign is arbitrary.

    Where the two are exactly orthogonal the largest coordinate is made positive, so that the result is still
    unique.
    """
    along = (direction * difference).sum(1, keepdim=True)
    largest = direction.gather(1, direction.abs().argmax(1, keepdim=True))
    return torch.where(torch.where(along != 0, along, largest) < 0, -direction, direction)
