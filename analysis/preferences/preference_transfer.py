"""Activity differences of a small aligned source, carried to a target by affine maps and fitted there by LoRA."""

from functools import cached_property

from jaxtyping import Float
from preference_costs import Spent, metered
from preference_setups import LAYERS, Setup, opened
from preference_training import Made, Trainer
from preference_vectors import source_differences
from torch import Tensor

from contrans_lens.rahf.controls import constant, random_directions
from contrans_lens.rahf.differences import ActivityDifferences
from contrans_lens.rahf.summaries import SummarisedDifferences
from contrans_lens.rahf.transfer import CarriedDifferences, carry_differences, match_norms, mean_norms
from contrans_lens.rahf.transfer_maps import maps_from_pairs, proportional_points, shuffled_maps
from contrans_lens.residuals import PairedResiduals, capture_pair
from contrans_lens.testbed import map_texts

MAP_TEXTS = 300
"""Texts whose tokens are paired: each gives many."""
CONTROLS = ("shuffled map", "random source direction", "constant pattern")


class Transfer:
    """Carries the differences of one source to the target of a setup, and fits adapters to them."""

    def __init__(self, setup: Setup, seed: int, source: str, trainer: Trainer) -> None:
        """Nothing is read yet."""
        self.setup, self.seed, self.source, self.trainer = setup, seed, source, trainer

    def fit(self, name: str, alpha: float) -> Made:
        """Step 3 on what was carried (``"carried"``) or on a control of it, all brought to the same norms."""
        matched = match_norms(self.made(name), self.norms)
        folder = f"transfer-{self.source}-{name.replace(' ', '-')}-{alpha:g}"
        return self.trainer.fitted(matched, alpha, folder, self.spent)

    def made(self, name: str) -> SummarisedDifferences:
        """What is fitted, before its norms are matched."""
        if name == "shuffled map":
            return self.carried.with_maps(shuffled_maps(self._paired, self.carried.maps, self.seed))
        if name == "random source direction":
            return self.carried.with_source(random_directions(self._found[0], self.seed, one=True))
        if name == "constant pattern":
            return constant(self.carried)
        return self.carried

    @cached_property
    def norms(self) -> Float[Tensor, " layer"]:
        """By layer, the share of its own residual norm that v has in the source, in units of the target.

        Nothing that needs cues in the target is used.
        """
        differences, _ = self._found
        source, target = differences.residual_norms(), self.carried.residual_norms()
        if source is None or target is None:
            raise SystemExit("both models are hooked, so their residual norms are known")
        layers = [differences.hook_points.index(each.source_hook_point) for each in self.carried.maps]
        return (mean_norms(differences) / source)[layers] * target

    @cached_property
    def _found(self) -> tuple[ActivityDifferences, Spent]:
        return source_differences(self.source, self.setup, self.seed)

    @cached_property
    def _points(self) -> dict[str, str]:
        models = opened(self.source), self.setup.base
        return proportional_points(LAYERS, *(int(model.cfg.n_layers) for model in models))

    @cached_property
    def _read(self) -> tuple[PairedResiduals, Spent]:
        source, target = opened(self.source), self.setup.base
        with metered("paired map texts", source, target) as spent:
            paired = capture_pair(
                source,
                target,
                map_texts(min(MAP_TEXTS, self.setup.sizes.map_texts), self.seed),
                source_hook_points=list(dict.fromkeys(self._points.values())),
                target_hook_points=list(self._points),
                pairing="token_ends",
                seed=self.seed,
            )
        return paired, spent

    @property
    def _paired(self) -> PairedResiduals:
        return self._read[0]

    @cached_property
    def _made(self) -> tuple[CarriedDifferences, Spent]:
        with metered("maps of tokens") as spent:
            maps = maps_from_pairs(self._paired, self._points)
        pairs = self.setup.training_pairs(self.seed)
        carried = carry_differences(self._found[0], pairs, maps, source=opened(self.source), target=self.setup.base)
        return carried, self._found[1] + self._read[1] + spent

    @property
    def carried(self) -> CarriedDifferences:
        """The source's differences in the target's residual stream."""
        return self._made[0]

    @property
    def spent(self) -> Spent:
        """What all before the fit took."""
        return self._made[1]
