"""Differences that were carried to another model: exact where the map is known."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrans_lens.errors import FingerprintMismatchError, HookPointError, MapError, RahfError
from contrans_lens.maps import AffineMap
from contrans_lens.models import fingerprint
from contrans_lens.models.plain import PlainModel, open_plain
from contrans_lens.rahf.controls import constant, negated, random_directions, shuffled
from contrans_lens.rahf.differences import capture_differences, stream_differences
from contrans_lens.rahf.fit import fit_adapter
from contrans_lens.rahf.protocol import Differences
from contrans_lens.rahf.training import TrainingSettings
from contrans_lens.rahf.transfer import CarriedDifferences, carry_differences, match_norms, mean_norms
from contrans_lens.texts import PreferenceSet
from tests.rahf.small_contrasts import PAIRS, POINTS, Given, scit, values
from tests.rahf.test_alignment import byte_spelling
from tests.tiny_models import D_MODEL, hf_residuals, hf_tiny, open_tiny, tiny_folder

WHERES = ("answer", "predicting")
TARGET_POINTS = ("blocks.3.hook_resid_post", "blocks.0.hook_resid_pre")


def rotation(seed: int = 0, width: int = D_MODEL) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))[0]


def linear(weight: torch.Tensor, source: str, target: str, **named) -> AffineMap:
    """A map with a bias that would show."""
    return AffineMap(weight, torch.full((len(weight),), 5.0), source, target, **named)


def identities(points=POINTS) -> list[AffineMap]:
    return [linear(torch.eye(D_MODEL), name, name) for name in points]


def read(where="answer", **options):
    return stream_differences(scit(), PAIRS, POINTS, where=where, **options)


def carry(differences, maps, preferences=PAIRS, **options) -> CarriedDifferences:
    models = {"source": open_tiny(), "target": open_tiny()} | options
    return carry_differences(differences, preferences, maps, **models)


def bytewise() -> PlainModel:
    """A model with the same widths whose tokenizer makes a token of every byte."""
    plain = open_plain(tiny_folder("llama"))
    return dataclasses.replace(plain, tokenizer=byte_spelling().tokenizer, bos=3)


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("answers", ["chosen", "rejected", "both"])
def test_an_identity_onto_the_same_model_gives_v_itself(where, answers):
    given = read(where, answers=answers)
    found = carry(given, identities(), answers=answers)
    assert torch.equal(values(found), values(given))
    assert (found.rows, found.hook_points, found.where) == (given.rows, POINTS, where)
    assert (found.groups, found.d_model, found.n_tokens) == (given.groups, D_MODEL, given.n_tokens)
    assert isinstance(found, Differences)


def test_a_rotation_rotates_from_layer_to_layer():
    given = read()
    turns = [rotation(0), rotation(1)]
    sources = (POINTS[2], POINTS[0])
    found = carry(given, [linear(*each) for each in zip(turns, sources, TARGET_POINTS, strict=True)])
    expected = [values(given)[:, given.layer(name)] @ turn.T for turn, name in zip(turns, sources, strict=True)]
    assert found.hook_points == TARGET_POINTS
    torch.testing.assert_close(values(found), torch.stack(expected, dim=1))
    # Norms stay, and so does how far all are one direction.
    own = dict(zip(POINTS, given.shares(), strict=True))
    assert found.shares() == pytest.approx([own[name] for name in sources], rel=1e-5)


def test_widths_may_differ():
    given = read()
    turn = rotation(width=8)
    thin = Given(values(given)[..., :8], [len(row.answer) for row in given.rows])
    thin.rows, thin.hook_points = given.rows, POINTS
    wide = torch.cat([turn, torch.zeros(D_MODEL - 8, 8)])
    found = carry(thin, [linear(wide, POINTS[0], TARGET_POINTS[0])])
    torch.testing.assert_close(values(found)[:, 0, :8], values(thin)[:, 0] @ turn.T)
    assert not values(found)[..., 8:].any()


@pytest.mark.parametrize("where", WHERES)
def test_tokens_of_another_tokenizer_take_those_of_their_characters(where):
    given = read(where)
    found = carry(given, identities(), target=bytewise())
    tokenizer = open_tiny().tokenizer
    for row, (own, others) in enumerate(zip(given.rows, found.rows, strict=True)):
        lengths = torch.tensor([len(tokenizer.convert_ids_to_tokens(token)) for token in own.answer])
        assert others.ids[0] == 3
        assert len(others.answer) == int(lengths.sum())
        expected = given.of([row]).repeat_interleave(lengths, dim=0)
        assert torch.equal(found.of([row]), expected)
    assert found.n_tokens > given.n_tokens


def test_rows_are_those_asked_for_in_any_order():
    found = carry(read(), identities(), target=bytewise())
    assert torch.equal(found.of([3, 0, 3]), torch.cat([found.of([row]) for row in (3, 0, 3)]))
    assert found.of([]).shape == (0, len(POINTS), D_MODEL)
    with pytest.raises(RahfError, match="row 5 was asked for"):
        found.of([5])


def test_answers_that_the_source_cut_end_there():
    given = read(max_answer_tokens=2)
    found = carry(given, identities(), target=bytewise())
    for row, (own, others) in enumerate(zip(given.rows, found.rows, strict=True)):
        assert len(own.answer) <= 2
        assert bytes_of(bytewise(), others.answer) == bytes_of(open_tiny(), own.answer)
        assert torch.equal(found.of([row])[-1], given.of([row])[-1])
    assert found.aligned.unmatched > 0


def bytes_of(model, ids) -> str:
    return "".join(model.tokenizer.convert_ids_to_tokens(list(ids)))


def test_what_was_kept_on_disk_is_carried_too(tmp_path):
    kept = capture_differences(scit(), PAIRS, POINTS, base=open_tiny(), where="answer", store=tmp_path / "v")
    torch.testing.assert_close(values(carry(kept, identities())), values(read()))


def test_the_model_is_recorded_and_its_norms_are_measured():
    hooked = carry(read(), identities())
    assert hooked.fingerprint is not None
    hooked.fingerprint.require(fingerprint(open_tiny()), "the target")
    hf_model, _ = hf_tiny("gpt2")
    norms = []
    for row in hooked.rows:
        ids = torch.tensor([row.ids])
        layers = hf_residuals(hf_model, ids, torch.ones_like(ids, dtype=torch.bool))
        norms.append(torch.stack([layers[0][0], layers[0][0], layers[2][0]])[:, row.start :].norm(dim=2))
    torch.testing.assert_close(hooked.residual_norms(), torch.cat(norms, dim=1).mean(1), rtol=1e-5, atol=1e-5)
    named = [dataclasses.replace(each, target_fingerprint=hooked.fingerprint) for each in identities()]
    plain = carry(read(), named, target=open_plain(tiny_folder("gpt2")))
    assert (plain.fingerprint, plain.residual_norms()) == (hooked.fingerprint, None)
    assert torch.equal(values(plain), values(hooked))
    assert carry(read(), identities(), target=bytewise()).fingerprint is None


def test_controls_of_the_source_go_the_same_way():
    given = read()
    found = carry(given, [linear(rotation(), POINTS[0], TARGET_POINTS[0])])
    torch.testing.assert_close(values(found.with_source(negated(given))), -values(found))
    # One vector for all tokens: as ConTrans carries it.
    single = found.with_source(constant(given))
    mean = given.mean_vectors("v").at(POINTS[0])
    expected = (rotation() @ mean).expand(found.n_tokens, -1)
    torch.testing.assert_close(values(single)[:, 0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values(single), values(constant(found)), rtol=1e-4, atol=1e-5)
    drawn = found.with_source(random_directions(given))
    torch.testing.assert_close(values(drawn).norm(dim=2), values(found).norm(dim=2), rtol=1e-4, atol=1e-5)
    assert torch.cosine_similarity(values(drawn), values(found), dim=2).mean().abs() < 0.3
    assert len(values(found.with_source(shuffled(given)))) == found.n_tokens


def test_other_maps_carry_the_same_differences():
    given = read()
    found = carry(given, identities(POINTS[:1]))
    turned = found.with_maps([linear(rotation(3), POINTS[0], POINTS[0])])
    torch.testing.assert_close(values(turned), values(found) @ rotation(3).T)
    assert turned.rows is found.rows
    with pytest.raises(MapError, match="lead to other hook points"):
        found.with_maps(identities(POINTS[2:]))
    with pytest.raises(MapError, match="8 -> 32"):
        found.with_maps([linear(torch.zeros(D_MODEL, 8), POINTS[0], POINTS[0])])
    with pytest.raises(RahfError, match="other rows or at other positions"):
        found.with_source(read("predicting"))


@given(st.lists(st.floats(0.0, 50.0), min_size=2, max_size=2))
def test_norms_become_those_that_are_wanted(wanted):
    drawn = Given(torch.randn(7, 2, 5, generator=torch.Generator().manual_seed(1)), [3, 4])
    found = match_norms(drawn, torch.tensor(wanted))
    assert mean_norms(found).tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    # Only their lengths change.
    ratio = torch.tensor(wanted) / mean_norms(drawn)
    torch.testing.assert_close(values(found), values(drawn) * ratio.float()[:, None])


def test_norms_are_matched_by_the_name_of_the_layer():
    drawn = Given(torch.randn(7, 2, 5, generator=torch.Generator().manual_seed(1)), [3, 4])
    other = Given(torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(2)), [4])
    other.hook_points = ("blocks.1.hook_resid_post", "blocks.5.hook_resid_post", "blocks.0.hook_resid_post")
    assert mean_norms(match_norms(drawn, other)).tolist() == pytest.approx(mean_norms(other)[[2, 0]].tolist())
    by_hand = torch.stack([values(other)[:, layer].norm(dim=1).mean() for layer in range(3)])
    assert mean_norms(other).tolist() == pytest.approx(by_hand.tolist())


def test_refuses_norms_that_cannot_be_had():
    drawn = Given(torch.randn(7, 2, 5, generator=torch.Generator().manual_seed(1)), [3, 4])
    other = Given(torch.ones(4, 1, 9), [4])
    with pytest.raises(HookPointError, match=r"not read at blocks\.1\.hook_resid_post"):
        match_norms(drawn, other)
    for wanted in ([1.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(RahfError, match="were given for 2 layers"):
            match_norms(drawn, torch.tensor(wanted))
    with pytest.raises(RahfError, match=r"zero at blocks\.0\.hook_resid_post"):
        match_norms(Given(torch.zeros(4, 1, 9), [4]), torch.ones(1))
    other.where = "predicting"
    with pytest.raises(RahfError, match="those that give the norms at 'predicting'"):
        match_norms(drawn, other)


def test_an_adapter_is_fitted_to_what_was_carried(tmp_path):
    found = carry(
        read("predicting"), [linear(rotation(), POINTS[0], POINTS[2])], target=open_plain(tiny_folder("gpt2"))
    )
    training = TrainingSettings(steps=8, batch_size=5, accumulation=1, learning_rate=0.02, log_every=1)
    fitted = fit_adapter(tiny_folder("gpt2"), found, tmp_path / "adapter", alpha=1, training=training, device="cpu")
    assert fitted.hook_points == (POINTS[2],)
    assert fitted.curve.columns["relative_error"][0] == pytest.approx(1, abs=1e-3)
    assert fitted.relative_error < 0.97


def test_refuses_maps_that_do_not_fit():
    given = read()
    with pytest.raises(MapError, match="at least one, each to another named hook point"):
        carry(given, [])
    with pytest.raises(MapError, match="at least one, each to another named hook point"):
        carry(given, identities((POINTS[0], POINTS[0])))
    with pytest.raises(MapError, match="at least one, each to another named hook point"):
        carry(given, [AffineMap(torch.eye(D_MODEL), torch.zeros(D_MODEL))])
    with pytest.raises(MapError, match="is 8 -> 32; the differences and the target need 32 -> 32"):
        carry(given, [linear(torch.zeros(D_MODEL, 8), POINTS[0], POINTS[0])])
    with pytest.raises(MapError, match="is 32 -> 8"):
        carry(given, [linear(torch.zeros(8, D_MODEL), POINTS[0], POINTS[0])])
    with pytest.raises(HookPointError, match=r"comes from 'blocks.3.hook_resid_post'; .* were read"):
        carry(given, [linear(torch.eye(D_MODEL), "blocks.3.hook_resid_post", POINTS[0])])
    for target in (open_tiny(), open_plain(tiny_folder("gpt2"))):
        with pytest.raises(HookPointError, match=r"blocks\.9\.hook_resid_post"):
            carry(given, [linear(torch.eye(D_MODEL), POINTS[0], "blocks.9.hook_resid_post")], target=target)
    with pytest.raises(HookPointError, match="no hook point between blocks"):
        carry(given, [linear(torch.eye(D_MODEL), POINTS[0], "blocks.0.hook_mlp_out")])


def test_refuses_other_models_and_other_preferences():
    own, other = fingerprint(open_tiny()), fingerprint(open_tiny(seed=1))
    known = stream_differences(scit(), PAIRS, POINTS, base=open_tiny())
    for side, match in (("source", "the source of the map"), ("target", "the target of the map")):
        for recorded in (own, other):
            maps = [dataclasses.replace(each, **{f"{side}_fingerprint": recorded}) for each in identities()]
            if recorded is own:
                assert carry(known, maps).fingerprint is not None
                continue
            with pytest.raises(FingerprintMismatchError, match=match):
                carry(known, maps)
    fewer = PreferenceSet(tuple(PAIRS.preferences)[:-1], "fewer")
    with pytest.raises(RahfError, match="give 4 rows with answers='chosen'"):
        carry(known, identities(), fewer)
    with pytest.raises(RahfError, match="holds other tokens"):
        carry(known, identities(), answers="rejected")
    with pytest.raises(RahfError, match="the model that read them"):
        carry(known, identities(), source=bytewise())
