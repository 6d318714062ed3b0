"""The choices of a layer selection, as data."""

from dataclasses import asdict, dataclass, field
from typing import Any

from contrans_lens.errors import SelectionError
from contrans_lens.layers import STATE_METRICS
from contrans_lens.pipeline.settings import Settings

SHORTLIST = "shortlist"
SURVEY = "survey"
ALL_PAIRS = "all"
MEASURES = (SHORTLIST, SURVEY, ALL_PAIRS)
FAMILIES = ("random_covariance", "random_source", "shuffled_map")
"""Controls of the causal test: the target's own directions, the map's directions, and the concept without pairing."""


@dataclass(frozen=True)
class LayerSettings:
    """What a layer selection looks at, and how strict it is.

    Raises:
        SelectionError: a value that no selection can run with.
    """

    transplant: Settings = field(default_factory=Settings)
    """Estimator, map, damage budget, texts and seed: as in a transplant. Its ``layers`` is not looked at."""
    measure: str = SHORTLIST
    """Which pairs are written. ``shortlist``: those that the evidence proposes, with controls. ``survey``: all pairs,
    so that it is seen what the evidence foretells; controls and choice as before. ``all``: all pairs, with controls,
    and the choice is among all of them."""
    shortlist: int = 6
    """At most so many pairs are written with controls, the paper's prior not counted."""
    draws: int = 20
    """Draws of each family of controls; the smallest p-value is 1 / (1 + draws)."""
    alpha: float = 0.05
    """Level of every gate."""
    n_permutations: int = 199
    """Permutations behind the null of probes and similarities."""
    probe: str = "ridge"
    """How probes are fitted; see :func:`contrans_lens.layers.probe_layers`."""
    n_folds: int = 5
    """Folds of the probes; groups never straddle them."""
    metrics: tuple[str, ...] = STATE_METRICS
    """Similarities of the generic states; see :data:`contrans_lens.layers.METRICS`."""
    max_similarity_texts: int = 500
    """At most so many generic texts are compared: similarities cost the square of their number."""
    response_prompts: int = 24
    """At most so many contrast texts on which the response to the written vector is looked at; 0 leaves it out."""

    def __post_init__(self) -> None:
        checks = {
            f"measure must be one of {', '.join(MEASURES)}; got {self.measure!r}": self.measure in MEASURES,
            f"shortlist must be at least 1; got {self.shortlist}": self.shortlist >= 1,
            f"alpha must lie between 0 and 1; got {self.alpha}": 0 < self.alpha < 1,
            f"n_folds must be at least 3; got {self.n_folds}": self.n_folds >= 3,
            f"max_similarity_texts must be at least 10; got {self.max_similarity_texts}": self.max_similarity_texts
            >= 10,
            f"response_prompts must not be negative; got {self.response_prompts}": self.response_prompts >= 0,
        }
        for name, count in (("draws", self.draws), ("n_permutations", self.n_permutations)):
            needed = round(1 / self.alpha) - 1 if 0 < self.alpha < 1 else 0
            checks[f"{name} = {count} cannot give a p-value of {self.alpha}: at least {needed} are needed"] = 1 / (
                1 + count
            ) <= self.alpha * (1 + 1e-9)
        for message, holds in checks.items():
            if not holds:
                raise SelectionError(message + ".")

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable values."""
        return {**asdict(self), "metrics": list(self.metrics)}
