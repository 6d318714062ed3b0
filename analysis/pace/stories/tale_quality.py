"""Do the atoms know their topics, and how many of them explain an activation?"""

from pathlib import Path
from typing import Any

from jaxtyping import Float
from tale_items import ENDINGS, tale_items
from tale_lab import READINGS, SHARED, Lab
from tale_stimuli import UNWANTED, concept_forms
from torch import Tensor

from contrans_lens.pace.paths import sparsity_path
from contrans_lens.pace.topics import TopicSeparation, topic_separation
from contrans_lens.residuals import capture
from contrans_lens.testbed.variants import untrained

PATH_LAYER = 3


def quality(lab: Lab, out: Path) -> dict[str, Any]:
    """AUC of every layer and reading, trained and untrained, and the sparsity path at one layer."""
    folder = untrained(SHARED / "models" / lab.name, out / "untrained" / lab.name)
    bare = Lab(lab.name, _opened(folder), lab.sizes)
    found: dict[str, Any] = {"n_atoms": lab.dictionaries["word"].n_atoms, "d_model": int(lab.model.cfg.d_model)}
    found["dropped"] = len(lab.dictionaries["word"].dropped)
    found["topics"] = {
        name: {reading: _layers(each, reading) for reading in READINGS}
        for name, each in (("trained", lab), ("untrained", bare))
    }
    found["quality"] = {
        name: {reading: _shares(each, reading) for reading in READINGS}
        for name, each in (("trained", lab), ("untrained", bare))
    }
    found["path"] = _path(lab)
    return found


def _opened(folder: Path) -> Any:
    from contrans_lens.models import open_model

    return open_model(folder)


def _shares(lab: Lab, reading: str) -> list[float]:
    """Mean quality of the atoms at each hook point: own stimuli above others along the atom; one half is chance."""
    found = lab.dictionaries[reading].quality
    return [] if found is None else found.mean(0).tolist()


def _layers(lab: Lab, reading: str) -> list[dict[str, Any]]:
    dictionary = lab.dictionaries[reading]
    draws = 200 if lab.sizes.small else 1000
    rows = []
    for point in lab.hook_points:
        whole = topic_separation(dictionary, point, draws=draws)
        things = topic_separation(dictionary, point, forms=concept_forms(dictionary.names), draws=draws)
        rows.append({"hook_point": point, "all": _numbers(whole), "things": _numbers(things)})
    return rows


def _numbers(found: TopicSeparation) -> dict[str, float]:
    names = ("auc", "p_value", "null_highest", "same_mean", "different_mean")
    return {name: float(getattr(found, name)) for name in names}


def path_states(lab: Lab, point: str) -> Float[Tensor, "row d_model"]:
    """States at the end of the beginnings of all test items."""
    items = [tale_items(topic, "test", ENDINGS[topic][:1]) for topic in UNWANTED]
    texts = [item.prompt for each in items for side in (each.unwanted, each.opposite) for item in side.items]
    return capture(lab.model, texts, [point]).tensor(point).float()


def _path(lab: Lab) -> dict[str, Any]:
    """Sparsity against error on the last tokens of beginnings of all three topics."""
    point = lab.hook_points[PATH_LAYER]
    found = sparsity_path(lab.dictionaries["word"], path_states(lab, point), point)
    return {
        "hook_point": point,
        "n_rows": found.n_rows,
        "points": [
            {
                "solver": one.solver,
                "parameter": one.parameter,
                "count": [one.count.value, one.count.low, one.count.high],
                "error": [one.error.value, one.error.low, one.error.high],
            }
            for one in found.points
        ],
    }
