"""Estimators of concept directions, one a file: plain functions, all layers batched."""

from contrans_lens.concepts.estimators.covariance import Shrinkage
from contrans_lens.concepts.estimators.lda import lda, whitened
from contrans_lens.concepts.estimators.logistic import logistic
from contrans_lens.concepts.estimators.mean_difference import mean_difference
from contrans_lens.concepts.estimators.principal_component import (
    paired_principal_component,
    principal_component,
)
from contrans_lens.concepts.estimators.random import random_direction

__all__ = [
    "Shrinkage",
    "lda",
    "logistic",
    "mean_difference",
    "paired_principal_component",
    "principal_component",
    "random_direction",
    "whitened",
]
