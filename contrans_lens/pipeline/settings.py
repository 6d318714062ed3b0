"""The choices of one transplant, as data: they go into every result and make it repeatable."""

from dataclasses import asdict, dataclass
from typing import Any

from contrans_lens.errors import SelectionError

SWEEP = "sweep"
AUTO = "auto"
THREE_QUARTERS = "three-quarters"
_RULES = (SWEEP, AUTO, THREE_QUARTERS)


@dataclass(frozen=True)
class Settings:
    """What a transplant is allowed to choose, and how it is measured.

    Raises:
        SelectionError: a value that no transplant can run with.
    """

    layers: str = SWEEP
    """``sweep`` (every pair, decided on validation items), ``auto`` (by evidence, with controls: see
    :func:`contrans_lens.pipeline.select_layers`), ``three-quarters`` (the paper's prior), or
    ``SOURCE_HOOK_POINT,TARGET_HOOK_POINT``."""
    estimator: str = "mean_difference"
    """How concept vectors are read; see :func:`contrans_lens.concepts.estimate_concept`."""
    map_method: str = "ridge"
    """How the map is fitted; see :func:`contrans_lens.maps.fit_map`."""
    strength: float | None = None
    """Norm of the added vector over the target's mean residual norm. None: as much as ``kl_budget`` allows."""
    kl_budget: float = 0.05
    """Damage allowed to vectors whose strength is solved: KL on neutral text, nats per token, mean of both signs."""
    max_strength: float = 2.0
    """The strength stops here even where the budget is not used up."""
    controls_at: str = "norm"
    """Control draws have the transplanted vector's ``norm``, or each its own strength for the same ``budget``."""
    draws: int = 20
    """Draws of each control."""
    damage_draws: int | None = None
    """KL and perplexity of a control family are means over so many of its draws; None: over all."""
    curve_draws: int = 8
    """Random directions behind the band of the strength curve; 0 leaves the band out."""
    max_map_texts: int = 2000
    """At most so many texts fit the map."""
    max_neutral_texts: int = 48
    """At most so many neutral texts measure damage."""
    max_neutral_tokens: int = 64
    """At most so many tokens of each neutral text are used."""
    max_cut_words: int = 40
    """Whole texts are cut to at most so many words before they fit a map."""
    held_out_texts: float = 0.2
    """Share of the map texts that is held out for diagnostics."""
    level: float = 0.95
    """Coverage of every interval."""
    seed: int = 0
    """Seed of splits, draws and bootstraps."""

    def __post_init__(self) -> None:
        checks = {
            f"draws must be at least 20, one draw is no control; got {self.draws}": self.draws >= 20,
            f"curve_draws must not be negative; got {self.curve_draws}": self.curve_draws >= 0,
            f"kl_budget must be positive; got {self.kl_budget}": self.kl_budget > 0,
            f"max_strength must be positive; got {self.max_strength}": self.max_strength > 0,
            f"strength must be positive; got {self.strength}": self.strength is None or self.strength > 0,
            f"held_out_texts must lie between 0 and 1; got {self.held_out_texts}": 0 < self.held_out_texts < 1,
            f"level must lie between 0 and 1; got {self.level}": 0 < self.level < 1,
            f"controls_at must be 'norm' or 'budget'; got {self.controls_at!r}": self.controls_at in ("norm", "budget"),
            f"layers must be one of {', '.join(_RULES)} or 'SOURCE,TARGET'; got {self.layers!r}": self.layers in _RULES
            or self.layers.count(",") == 1,
        }
        for message, holds in checks.items():
            if not holds:
                raise SelectionError(message)

    @property
    def given_pair(self) -> tuple[str, str] | None:
        """The hook points that were given, or None."""
        if self.layers in _RULES:
            return None
        source, target = (part.strip() for part in self.layers.split(","))
        return source, target

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable values."""
        return asdict(self)
