"""Linear discriminant ``Sigma^-1 d`` and whitened difference ``Sigma^-1/2 d``, ``Sigma`` within classes."""

from jaxtyping import Float
from torch import Tensor

from contrans_lens.concepts.estimators.covariance import Shrinkage, apply_power, within_class
from contrans_lens.concepts.estimators.mean_difference import mean_difference


def lda(
    positives: Float[Tensor, "positive layer d_model"],
    negatives: Float[Tensor, "negative layer d_model"],
    shrinkage: Shrinkage = "oas",
) -> Float[Tensor, "layer d_model"]:
    """Fisher's discriminant ``Sigma^-1 (mean_P - mean_N)``, float64: the direction that *reads* best.

    ``Sigma`` is the covariance about the class means, divided by ``n`` and shrunk towards a multiple of the
    identity. With a number for ``shrinkage`` these are scikit-learn's weights
    (``LinearDiscriminantAnalysis(solver="lsqr")``).

    Raises:
        ConceptError: no variance within classes, or a singular covariance without shrinkage.
    """
    rows = within_class(positives, negatives)
    return apply_power(rows, mean_difference(positives, negatives), -1.0, shrinkage)


def whitened(
    positives: Float[Tensor, "positive layer d_model"],
    negatives: Float[Tensor, "negative layer d_model"],
    shrinkage: Shrinkage = "oas",
) -> Float[Tensor, "layer d_model"]:
    """The mean difference in whitened (ZCA) coordinates, ``Sigma^-1/2 (mean_P - mean_N)``, float64.

    Half way between the mean difference, which steers well, and LDA, which reads well.

    Raises:
        ConceptError: as :func:`lda`.
    """
    rows = within_class(positives, negatives)
    return apply_power(rows, mean_difference(positives, negatives), -0.5, shrinkage)
