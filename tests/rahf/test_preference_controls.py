"""The pattern that aligns is the preference's: without the preference, or with another contrast, a fit does not."""

import pytest

from contrans_lens.evaluation.behaviours import PairedAnswers
from contrans_lens.models import HookedModel, open_model
from contrans_lens.rahf.contrasts import ScitContrast
from contrans_lens.rahf.differences import capture_differences
from contrans_lens.rahf.fit import fit_adapter
from contrans_lens.rahf.signs import signs_exchanged
from contrans_lens.rahf.training import TrainingSettings
from contrans_lens.rahf.transfer import match_norms
from contrans_lens.testbed import SCIT_INSTRUCTIONS, model_path, preference_set
from contrans_lens.texts import Instructions

POINTS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
CUES = SCIT_INSTRUCTIONS["honesty"]
# As long as the cues, word for word, and about the size of the writer instead of the truth.
SIZES = Instructions("A big writer answers the questions.\n", "A small writer answers the questions.\n")
QUICK = TrainingSettings(steps=40, accumulation=1, learning_rate=3e-3, checkpoint_every=1000)


def margins(model: HookedModel) -> float:
    """Mean log-odds of the chosen answers of held-out lands, nats."""
    items = PairedAnswers(tuple(preference_set("honesty").part("test").items()))
    return float(items.measure(model, [()]).means("log_odds")[0])


def test_shuffled_labels_and_a_contrast_as_long_fall_behind_the_preference(tmp_path):
    place = model_path("gpt2-target")
    base = open_model(place)
    pairs = preference_set("honesty").part("train").sample(160)
    own = capture_differences(ScitContrast(base, CUES), pairs, POINTS, base=base)
    sizes = capture_differences(ScitContrast(base, SIZES), pairs, POINTS, base=base)
    for one, other in ((CUES.positive, SIZES.positive), (CUES.negative, SIZES.negative)):
        tokens = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (one, other)]
        assert len(tokens[0]) == len(tokens[1])
    patterns = {
        "preference": own,
        "shuffled": signs_exchanged(own, 1, 0),
        "as long": match_norms(sizes, own),
    }
    found = {"base": margins(base)}
    for name, pattern in patterns.items():
        fitted = fit_adapter(place, pattern, tmp_path / name, alpha=1, training=QUICK)
        found[name] = margins(open_model(fitted.folder))
    gains = {name: value - found["base"] for name, value in found.items()}
    assert gains["preference"] > 2.0
    assert gains["shuffled"] == pytest.approx(0.0, abs=gains["preference"] / 3)
    assert gains["as long"] < gains["preference"] / 2
