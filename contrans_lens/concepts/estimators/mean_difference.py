"""The difference of class means, ``v = mean_P h - mean_N h``: what most steering papers and ConTrans use."""

import torch
from jaxtyping import Float
from torch import Tensor


def mean_difference(
    positives: Float[Tensor, "positive layer d_model"], negatives: Float[Tensor, "negative layer d_model"]
) -> Float[Tensor, "layer d_model"]:
    """Mean of the positives minus mean of the negatives, float64, in the units of the residual stream."""
    return positives.mean(0, dtype=torch.float64) - negatives.mean(0, dtype=torch.float64)
