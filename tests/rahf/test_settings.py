import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrans_lens.errors import RahfError
from contrans_lens.models import layer_of, resid_post
from contrans_lens.rahf.settings import AlignSettings, default_hook_points, spelled_instructions
from contrans_lens.rahf.training import TrainingSettings
from contrans_lens.texts import Instructions


def test_a_model_of_32_blocks_is_read_where_the_paper_reads():
    # hidden_states[l] is the output of block l - 1.
    assert default_hook_points(32) == tuple(resid_post(block) for block in (9, 11, 13, 15, 17))
    assert default_hook_points(32, "cues") == default_hook_points(32, "scit")
    assert default_hook_points(32, "dual") == (*default_hook_points(32), resid_post(19))


@given(st.integers(1, 200), st.sampled_from(["scit", "dual", "cues"]))
def test_other_depths_are_read_at_the_same_shares(n_blocks: int, method: Any):
    points = default_hook_points(n_blocks, method)
    after = [layer_of(point) + 1 for point in points]
    assert after == sorted(set(after))
    assert after[0] >= 1
    assert after[-1] <= n_blocks
    last = (20 if method == "dual" else 18) * n_blocks / 32
    assert abs(after[-1] - last) <= 0.5 or after == [1]


def test_there_must_be_blocks_and_a_method():
    with pytest.raises(RahfError, match="0 blocks"):
        default_hook_points(0)


def test_one_seed_is_that_of_everything():
    settings = AlignSettings(tuning=TrainingSettings(steps=3, seed=8), seed=5)
    assert (settings.tuning.seed, settings.fitting.seed, settings.tuning.steps) == (5, 5, 3)
    assert json.loads(json.dumps(settings.to_dict()))["fitting"]["seed"] == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},
        {"alpha": float("nan")},
        {"alpha": True},
        {"epsilon": 1.5},
        {"controls": -1},
        {"hook_points": ()},
        {"hook_points": ("blocks.1.hook_resid_post",) * 2},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(RahfError, match=next(iter(wrong))):
        AlignSettings(**wrong)


def test_instructions_are_spelled_by_topic():
    kind = Instructions("Be kind.\n", "Be rude.\n")
    assert spelled_instructions(kind) == {"": {"positive": "Be kind.\n", "negative": "Be rude.\n"}}
    assert spelled_instructions({"a": kind}) == {"a": spelled_instructions(kind)[""]}
