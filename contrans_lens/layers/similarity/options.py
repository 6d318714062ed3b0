"""How the similarities are computed."""

from dataclasses import dataclass
from typing import Literal

from contrans_lens.errors import LayerError


@dataclass(frozen=True)
class SimilarityOptions:
    """Settings of the metrics; the defaults are the published ones where there are any."""

    k: int = 10
    """Neighbours of mutual k-NN (Huh et al. take 10)."""
    knn_distance: Literal["euclidean", "cosine"] = "euclidean"
    """``"cosine"`` compares the angles of the states about their mean. Huh et al. leave the mean in, where the common
    offset of residual streams makes all angles small."""
    rsa_distance: Literal["euclidean", "cosine"] = "euclidean"
    """Distance between texts; ``"cosine"`` is 1 - cosine of the states about their mean."""
    rsa_correlation: Literal["spearman", "pearson"] = "spearman"
    variance_share: int | float = 0.99
    """SVCCA and PWCCA keep the leading directions that hold this share of a layer's variance (Raghu et al.: .99)."""
    max_components: int | None = 64
    """SVCCA, PWCCA and Procrustes keep at most so many leading directions; None keeps all. One decomposition of a
    square matrix of this side is needed for every pair and permutation."""
    keep: int | float = 0.8
    """Share of texts (or groups) in each subsample behind the intervals."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            LayerError: a setting is outside its range.
        """
        if self.k < 1:
            raise LayerError(f"k = {self.k} neighbours; give 1 or more.")
        for name, choices in (
            ("knn_distance", ("euclidean", "cosine")),
            ("rsa_distance", ("euclidean", "cosine")),
            ("rsa_correlation", ("spearman", "pearson")),
        ):
            if getattr(self, name) not in choices:
                raise LayerError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}.")
        if not 0 < self.variance_share <= 1:
            raise LayerError(f"variance_share = {self.variance_share}; give a share above 0, up to 1.")
        if self.max_components is not None and self.max_components < 1:
            raise LayerError(f"max_components = {self.max_components}; give 1 or more, or None for all.")
        if not 0 < self.keep < 1:
            raise LayerError(f"keep = {self.keep}; a subsample keeps a share between 0 and 1.")
