import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import HookPointError, RahfError
from contrans_lens.models import fingerprint
from contrans_lens.rahf.controls import constant, negated, random_directions, scaled, shuffled
from contrans_lens.rahf.differences import Differences, capture_differences, stream_differences
from contrans_lens.rahf.norms import difference_norms
from contrans_lens.rahf.protocol import row_chunks
from tests.rahf.small_contrasts import PAIRS, POINTS, Given, dual, scit, values
from tests.tiny_models import open_tiny

LENGTHS = [3, 1, 5, 2, 2, 4]


def drawn(lengths: list[int] = LENGTHS, n_layers: int = 2, d_model: int = 8, seed: int = 0, **known: object) -> Given:
    generator = torch.Generator().manual_seed(seed)
    return Given(torch.randn(sum(lengths), n_layers, d_model, generator=generator), lengths, **known)


def offsets(lengths: list[int]) -> list[int]:
    return [offset for length in lengths for offset in range(length)]


def everything(source: Given) -> dict[str, Differences]:
    return {
        "random": random_directions(source, 1),
        "one": random_directions(source, 1, one=True),
        "shuffled": shuffled(source, 1),
        "constant": constant(source),
        "scaled": scaled(source, 0.5),
        "negated": negated(source),
    }


def test_controls_are_differences_of_the_same_rows_and_base():
    norms = torch.tensor([2.0, 4.0])
    source = drawn(residual_norms=norms, fingerprint=fingerprint(open_tiny()))
    for control in everything(source).values():
        assert isinstance(control, Differences)
        assert control.rows == source.rows
        assert control.groups == source.groups
        assert control.hook_points == source.hook_points
        assert control.where == source.where
        assert control.fingerprint is source.fingerprint
        assert torch.equal(control.residual_norms(), norms)
        assert values(control).shape == values(source).shape
        assert control.of([]).shape == (0, 2, 8)
        assert control.mean_vectors("control").fingerprint is source.fingerprint
        for wrong in ([6], [-1]):
            with pytest.raises(RahfError, match="row"):
                control.of(wrong)


def test_a_row_of_a_control_does_not_depend_on_the_rows_asked_for_with_it():
    for control in everything(drawn()).values():
        every = values(control).split(LENGTHS)
        assert torch.equal(control.of([4, 0, 4]), torch.cat([every[4], every[0], every[4]]))


def test_random_directions_keep_every_norm_and_nothing_else():
    source = drawn([40] * 20, d_model=64)
    before = values(source)
    each, one = (values(random_directions(source, 3, one=flag)) for flag in (False, True))
    for found in (each, one):
        assert torch.allclose(found.norm(dim=2), before.norm(dim=2), rtol=1e-5)
        assert torch.cosine_similarity(found, before, dim=2).mean().abs() < 0.05
    units = one / one.norm(dim=2, keepdim=True)
    assert torch.allclose(units, units[:1].expand_as(units), atol=1e-6)
    assert (units[0, 0] @ units[0, 1]).abs() < 0.9  # layers have directions of their own
    assert random_directions(source, 3, one=True).shares()[0] > 0.9
    assert random_directions(source, 3).shares()[0] < 0.05
    assert torch.equal(values(random_directions(source, 3)), each)
    assert not torch.allclose(values(random_directions(source, 4)), each)


def test_a_zero_difference_stays_zero_in_a_random_direction():
    tensor = torch.ones(3, 1, 4)
    tensor[1] = 0
    found = values(random_directions(Given(tensor, [2, 1])))
    assert not found[1].any()
    assert torch.isfinite(found).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=9), st.integers(0, 1000))
def test_shuffling_gives_every_difference_of_an_offset_to_another_row(lengths, seed):
    # Every number is known by the row and the offset that it stands at.
    rows = [row for row, length in enumerate(lengths) for _ in range(length)]
    marks = torch.tensor(list(zip(rows, offsets(lengths), strict=True)), dtype=torch.float32)[:, None]
    found = values(shuffled(Given(marks, lengths), seed))[:, 0].int().tolist()
    longest = sorted(lengths)[-2]
    for row, offset, (giver, place) in zip(rows, offsets(lengths), found, strict=True):
        assert giver != row
        if offset < longest:
            assert place == offset
        else:  # no other row is as long: its last token stands in
            assert lengths[giver] == longest
            assert place == longest - 1
    taken = [tuple(pair) for pair, offset in zip(found, offsets(lengths), strict=True) if offset < longest]
    assert len(set(taken)) == len(taken)


def test_shuffling_depends_on_the_seed_and_needs_another_row():
    source = drawn()
    assert torch.equal(values(shuffled(source, 1)), values(shuffled(source, 1)))
    assert len({values(shuffled(source, seed)).numpy().tobytes() for seed in range(5)}) > 1
    with pytest.raises(RahfError, match="one row"):
        shuffled(drawn([3]))


def test_constant_is_the_mean_everywhere():
    source = drawn()
    found = values(constant(source))
    assert torch.allclose(found, values(source).mean(0).expand_as(found), atol=1e-6)
    assert constant(source).shares() == pytest.approx((1.0, 1.0))
    assert torch.allclose(constant(source).mean_vectors("v").vectors, source.mean_vectors("v").vectors)


def test_scaling_and_negation():
    source = drawn()
    assert torch.equal(values(scaled(source, 3)), 3 * values(source))
    assert torch.equal(values(negated(negated(source))), values(source))
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(RahfError, match="finite"):
            scaled(source, wrong)


def test_negation_is_the_swapped_contrast():
    for contrast in (scit(), dual()):
        found = capture_differences(contrast, PAIRS, POINTS)
        assert torch.equal(values(negated(found)), values(capture_differences(contrast.swapped(), PAIRS, POINTS)))


def test_controls_of_streamed_differences_are_those_of_stored_ones():
    kept, streamed = capture_differences(scit(), PAIRS, POINTS), stream_differences(scit(), PAIRS, POINTS)
    for one, other in zip(everything(kept).values(), everything(streamed).values(), strict=True):
        assert torch.allclose(values(one), values(other), atol=1e-5)


def test_norms_are_means_by_layer_and_offset_with_the_number_of_answers():
    source = drawn(residual_norms=torch.tensor([2.0, 4.0]))
    norms = source.norms(n_resamples=200)
    by_hand = values(source).double().norm(dim=2)
    where = torch.tensor(offsets(LENGTHS))
    assert norms.counts == (6, 5, 3, 2, 1)
    assert norms.layers == pytest.approx(by_hand.mean(0).tolist())
    for layer in range(2):
        for offset in range(5):
            wanted = by_hand[where == offset, layer]
            assert norms.offsets[layer][offset] == pytest.approx(float(wanted.mean()))
            interval = norms.offset_intervals[layer][offset]
            if offset == 4:
                assert interval is None  # one answer has no spread
            else:
                assert interval.value == pytest.approx(float(wanted.mean()))
                assert interval.low < interval.value < interval.high
                assert (interval.n, interval.n_groups, interval.level) == (len(wanted), len(wanted), 0.95)
    assert norms.layer_intervals[0].n_groups == 6
    relative = norms.relative()
    assert relative.unit == "residual norm"
    assert relative.layers == pytest.approx((norms.layers[0] / 2, norms.layers[1] / 4))
    assert relative.offsets[1][0] == pytest.approx(norms.offsets[1][0] / 4)
    assert relative.offset_intervals[1][0].high == pytest.approx(norms.offset_intervals[1][0].high / 4)
    assert norms.to_dict()["counts"] == (6, 5, 3, 2, 1)
    with pytest.raises(RahfError, match="already"):
        relative.relative()
    assert source.norms(n_offsets=2, n_resamples=200).counts == (6, 5)
    assert source.norms(n_offsets=2, n_resamples=200).layers == norms.layers


def test_rows_of_one_group_are_one_unit_of_the_intervals():
    tensor = torch.ones(16, 1, 3)
    tensor[8:] *= 3
    lengths = [1] * 16
    apart = Given(tensor, lengths).norms(n_resamples=500).layer_intervals[0]
    together = Given(tensor, lengths, tuple("aaaabbbbccccdddd")).norms(n_resamples=500).layer_intervals[0]
    assert (apart.n_groups, together.n_groups) == (16, 4)
    assert together.high - together.low > 1.3 * (apart.high - apart.low)
    assert Given(tensor, lengths, ("a",) * 16).norms().layer_intervals == (None,)
    # A row without a group's name is a group of its own, with all of its tokens.
    nameless = Given(tensor, [2] * 8, ("",) * 8).norms(n_resamples=500).layer_intervals[0]
    assert (nameless.n, nameless.n_groups) == (16, 8)


def test_norms_without_a_base_are_absolute_and_wrong_arguments_are_refused():
    source = drawn()
    with pytest.raises(RahfError, match="base="):
        source.norms(n_resamples=200).relative()
    with pytest.raises(RahfError):
        source.norms(n_offsets=0)
    with pytest.raises(RahfError):
        difference_norms(source, ["a"])


def test_shares_tell_one_direction_from_many():
    direction = torch.tensor([3.0, 4.0])
    same = Given(direction.expand(4, 1, 2), [2, 2])
    assert same.shares() == pytest.approx((1.0,))
    assert Given(torch.stack([direction, -direction])[:, None], [1, 1]).shares() == pytest.approx((0.0,), abs=1e-9)
    source = drawn()
    tensor = values(source).double()
    wanted = tensor.mean(0).square().sum(1) / tensor.square().sum(2).mean(0)
    assert source.shares() == pytest.approx(tuple(wanted.tolist()))
    with pytest.raises(RahfError, match=r"zero at blocks\.0"):
        Given(torch.zeros(2, 1, 2), [1, 1]).shares()
    assert source.layer("blocks.1.hook_resid_post") == 1
    with pytest.raises(HookPointError):
        source.layer("blocks.5.hook_resid_post")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 12))
def test_chunks_of_rows_are_all_rows_in_order_and_small(lengths, most):
    rows = Given(torch.zeros(sum(lengths), 1, 1), lengths).rows
    chunks = list(row_chunks(rows, most))
    assert [row for chunk in chunks for row in chunk] == list(range(len(lengths)))
    for chunk in chunks:
        assert len(chunk) == 1 or sum(lengths[row] for row in chunk) <= most
