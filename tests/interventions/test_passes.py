import pytest
import torch

from contrans_lens.errors import InterventionError
from contrans_lens.interventions.passes import SequenceTracker

IDS = torch.arange(20).reshape(2, 10)


def see(tracker, tokens, past=0, mask=None):
    tracker.observe(tokens, tokens.shape[0], tokens.shape[1], past, mask)
    return tracker.current


def where(found):
    return (found.sequence, found.start, found.width)


def test_cached_steps_continue_the_prompt():
    tracker = SequenceTracker()
    assert where(see(tracker, IDS[:, :4])) == (0, 0, 4)
    assert where(see(tracker, IDS[:, 4:5], past=4)) == (0, 4, 1)
    assert where(see(tracker, IDS[:, 5:6], past=5)) == (0, 5, 1)
    assert tracker.current.prompt.width == 4


def test_uncached_steps_continue_the_prompt():
    tracker = SequenceTracker()
    for end in (4, 5, 6):
        assert where(see(tracker, IDS[:, :end])) == (0, 0, end)
    assert tracker.current.prompt.width == 4


def test_uncached_steps_of_which_only_the_new_token_is_seen_continue_too():
    tracker = SequenceTracker()
    see(tracker, IDS[:, :4])
    for end in (5, 6):
        tracker.observe(IDS[:, end - 1 : end], 2, end, 0, None)
        assert where(tracker.current) == (0, 0, end)


@pytest.mark.parametrize(
    "tokens",
    [IDS[:, :4], IDS[:, :6], IDS[:, 1:6], IDS[:1, :5]],
    ids=["same", "longer by 2", "other", "other rows"],
)
def test_any_other_pass_begins_a_sequence(tokens):
    tracker = SequenceTracker()
    see(tracker, IDS[:, :4])
    assert where(see(tracker, tokens)) == (1, 0, tokens.shape[1])


def test_a_cropped_or_frozen_cache_continues_from_where_it_ends():
    tracker = SequenceTracker()
    see(tracker, IDS[:, :4])
    see(tracker, IDS[:, 4:5], past=4)
    assert where(see(tracker, IDS[:, 7:8], past=4)) == (0, 4, 1)


@pytest.mark.parametrize(("rows", "past"), [(2, 5), (1, 4)])
def test_a_cache_filled_out_of_sight_is_refused(rows, past):
    tracker = SequenceTracker()
    see(tracker, IDS[:, :4])
    with pytest.raises(InterventionError, match="filled outside"):
        see(tracker, IDS[:rows, :1], past=past)
    with pytest.raises(InterventionError, match="filled outside"):
        see(SequenceTracker(), IDS[:, :1], past=3)


def test_several_tokens_on_a_filled_cache_are_marked():
    tracker = SequenceTracker()
    assert not see(tracker, IDS[:, :4]).splits_prompt
    assert see(tracker, IDS[:, 4:6], past=4).splits_prompt


def test_the_mask_grows_with_what_is_generated():
    tracker = SequenceTracker()
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    see(tracker, IDS[:, :4], mask=mask)
    assert tracker.current.prompt.mask.tolist() == mask.bool().tolist()
    assert see(tracker, IDS[:, 4:5], past=4).mask()[0].tolist() == [False, False, True, True, True]


def test_the_number_of_prompt_lengths_must_fit():
    with pytest.raises(InterventionError, match="1 entries"):
        see(SequenceTracker(lengths=(3,)), IDS[:, :4])
