"""Does the family support transplantation? A plain measurement, for the cards of the family.

Private, and never used to choose a seed. The package's own pipeline measures the same with controls and
intervals.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.testbed.concepts import concept, concept_names, map_texts
from contrans_lens.testbed.gates import mean_difference, native_effect, residual_norms, split_items, steered
from contrans_lens.testbed.scoring import Scorer

MAP_TEXTS = 1000
RIDGE = 0.003
"""Ridge strength as a share of the mean variance of the source residual."""


def ridge_map(
    source: Float[Tensor, "text d_source"], target: Float[Tensor, "text d_target"], ridge: float = RIDGE
) -> Float[Tensor, "d_source d_target"]:
    """The linear part of the affine ridge map from source to target residuals."""
    x = (source - source.mean(0)).double()
    y = (target - target.mean(0)).double()
    gram = x.T @ x
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram, x.T @ y).float()


def transplant_effects(source: Scorer, target: Scorer, strength: float) -> dict[str, dict[str, Any]]:
    """Native and transplanted effect of every concept.

    The target block and the source block are chosen on the validation items, the effect is scored on the test
    items.

    Args:
        source: The model in which the concept is read.
        target: The model into which it is written.
        strength: Norm of the added vector over the mean last-token residual norm.

    Returns:
        For every concept name: `native` and `transplanted` effect, their `share`, the chosen blocks, and
        `last_layer`.
    """
    texts = map_texts(MAP_TEXTS, seed=0)
    source_states, target_states = source.last_residuals(texts), target.last_residuals(texts)
    norms = residual_norms(target)
    source_layers, target_layers = source_states.shape[1], target_states.shape[1]
    maps = {
        (one, other): ridge_map(source_states[:, one], target_states[:, other])
        for one in range(source_layers)
        for other in range(target_layers)
    }
    results: dict[str, dict[str, Any]] = {}
    for name in concept_names():
        file = concept(name)
        vectors = mean_difference(source, file)
        validation, test = split_items(file, "validation"), split_items(file, "test")

        def effect(items: list[dict[str, str]], one: int, other: int, read: Tensor = vectors) -> float:
            norm = strength * norms[other].item()
            plus, minus = steered(target, items, other, read[one] @ maps[one, other], norm)
            return plus - minus

        middle = source_layers // 2
        layer = max(range(target_layers - 1), key=lambda other: effect(validation, middle, other))
        read_at = max(range(source_layers), key=lambda one: effect(validation, one, layer))
        native = native_effect(target, file, norms, strength)
        moved = effect(test, read_at, layer)
        results[name] = {
            "native": native["effect"],
            "transplanted": moved,
            "share": moved / native["effect"],
            "source_layer": read_at,
            "target_layer": layer,
            "last_layer": effect(test, read_at, target_layers - 1),
        }
    return results
