import pytest
import torch

from contrans_lens.errors import FingerprintMismatchError, HookPointError, InterventionError, PaceError
from contrans_lens.interventions import ALL, CONTINUATION, GENERATED, Edit, generate, steer
from contrans_lens.models import fingerprint, generate_tokens, logits, tokenize
from contrans_lens.pace.decomposition import decompose, decompose_texts
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.partition import partition
from contrans_lens.pace.removal import ConceptRemoval, prepare, removals, removed_at
from contrans_lens.pace.solvers import OMP, ElasticNet, OrthogonalProjection, VectorAddition
from tests.interventions.cases import HOOK, LATER, PROMPTS, addition, n_hooks, residual
from tests.interventions.oracles import adding, hf_greedy, hf_logits
from tests.pace.removing import N_ATOMS, NAMES, SOLVER, UNWANTED, dictionary, removing, taken_out
from tests.tiny_models import D_MODEL, KINDS, RAW_KINDS, open_tiny


@pytest.fixture(params=KINDS)
def model(request):
    return open_tiny("gpt2", request.param)


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_per_token_at_two_hook_points_equals_hugging_face_hooks_around_another_solver(kind):
    model = open_tiny("llama", kind)
    batch = tokenize(model, PROMPTS[:1])

    def change(point):
        return lambda states: states - taken_out(states[0], point)[None]

    with torch.no_grad(), steer(model, removing(HOOK, LATER, mode="per_token")):
        found = logits(model, batch)[0]
    expected = hf_logits("llama", batch.tokens[0].tolist(), {1: change(HOOK), 2: change(LATER)})
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    plain = hf_logits("llama", batch.tokens[0].tolist(), {})
    assert (plain - expected).abs().max() > 0.05  # the removal does something


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_per_prompt_takes_what_the_last_prompt_token_holds_out_of_it_and_of_all_later_ones(kind):
    model = open_tiny("llama", kind)
    ids = tokenize(model, PROMPTS[:1]).tokens[0].tolist()

    def change(states):
        delta = taken_out(states[0, len(ids) - 1 : len(ids)])[0]
        return adding(-delta, len(ids) - 1)(states)

    found = generate(model, PROMPTS[:1], removing(), max_new_tokens=6, stop_at_eos=False).tokens[0]
    assert list(found) == hf_greedy("llama", ids, {1: change}, 6)


@pytest.mark.parametrize("mode", ["per_prompt", "per_token"])
def test_generation_is_the_same_cached_uncached_batched_and_padded_on_either_side(model, mode):
    chosen = removing(HOOK, LATER, mode=mode, strength=1.5)
    options = {"max_new_tokens": 5, "stop_at_eos": False}
    cached = generate(model, PROMPTS, chosen, **options).tokens
    assert generate(model, PROMPTS, chosen, use_cache=False, **options).tokens == cached
    assert tuple(generate(model, [prompt], chosen, **options).tokens[0] for prompt in PROMPTS) == cached
    assert generate(model, PROMPTS[::-1], chosen, batch_size=2, **options).tokens == cached[::-1]
    assert generate(model, PROMPTS, **options).tokens != cached
    for side in ("left", "right"):
        batch = tokenize(model, PROMPTS, padding_side=side)
        with torch.no_grad(), steer(model, chosen, batch=batch):
            rows = logits(model, batch)
        for row, prompt in enumerate(PROMPTS):
            alone = tokenize(model, [prompt])
            with torch.no_grad(), steer(model, chosen):
                expected = logits(model, alone)[0]
            torch.testing.assert_close(rows[row][batch.mask[row]], expected, atol=2e-4, rtol=1e-4)


def test_a_second_prompt_is_decomposed_anew(model):
    with torch.inference_mode(), steer(model, removing(), audit=True) as session:
        for prompt in PROMPTS[:2]:
            generate_tokens(model, tokenize(model, [prompt]), max_new_tokens=3, stop_at_eos=False)
    first, second = session.audit.findings
    assert (first.sequence, second.sequence) == (0, 1)
    assert first.found != second.found


def test_nothing_found_and_nothing_asked_leave_the_logits_bit_identical(model):
    batch = tokenize(model, PROMPTS, padding_side="left")
    with torch.no_grad():
        plain = logits(model, batch)
        for mode in ("per_prompt", "per_token"):
            silent = removing(solver=ElasticNet(1e4), mode=mode)
            with steer(model, silent, audit=True) as session:
                assert torch.equal(logits(model, batch), plain)
            assert len(session.audit) == 0
            assert all(not each.found for each in session.audit.findings)
        before = n_hooks(model)
        with steer(model, removing(strength=0.0)):
            assert n_hooks(model) == before
            assert torch.equal(logits(model, batch), plain)


def test_positions_choose_the_tokens_that_are_decomposed(model):
    batch = tokenize(model, PROMPTS, padding_side="left")
    last = (batch.lengths - 1).tolist()
    found = {}
    for name, positions in (("all", ALL), ("continuation", CONTINUATION), ("generated", GENERATED)):
        chosen = removing(mode="per_token", positions=positions)
        with torch.inference_mode(), steer(model, chosen, audit=True) as session:
            generate_tokens(model, batch, max_new_tokens=3, stop_at_eos=False)
        found[name] = [session.audit.positions(HOOK, row) for row in range(len(PROMPTS))]
    for row, end in enumerate(last):
        assert found["all"][row] == list(range(end + 3))
        assert found["continuation"][row] == [end, end + 1, end + 2]
        assert found["generated"][row] == [end + 1, end + 2]


def test_the_audit_says_what_was_found_and_what_was_removed(model):
    batch = tokenize(model, PROMPTS, padding_side="left")
    states = torch.stack([row[-1] for row in residual(model, batch)])
    expected = decompose(dictionary(), states, HOOK, solver=SOLVER)
    with torch.no_grad(), steer(model, removing(strength=0.5), audit=True) as session:
        logits(model, batch)
    assert [each.row for each in session.audit.findings] == [0, 1, 2]
    for row, each in enumerate(session.audit.findings):
        assert each.position == int(batch.lengths[row]) - 1
        assert dict(each.found) == pytest.approx(dict(expected.row(row)), abs=1e-4)
        assert dict(each.removed) == {name: value for name, value in each.found if name in UNWANTED}
        assert each.norm == pytest.approx(float(states[row].norm()), rel=1e-5)
        assert each.residual == pytest.approx(float(expected.residuals[row]), abs=1e-4)
        change = next(c for c in session.audit.changes if (c.row, c.position) == (row, each.position))
        assert change.norm == pytest.approx(each.removed_norm, rel=1e-4)
    listed = session.audit.concepts()
    assert {name for _, name, _, _ in listed} == {name for f in session.audit.findings for name, _ in f.removed}
    assert {name for _, name, _, _ in session.audit.concepts(removed=False)} > {name for _, name, _, _ in listed}


def test_it_acts_in_turn_with_other_interventions_and_sees_what_they_left(model):
    batch = tokenize(model, PROMPTS[:1])
    (own,), add = removing(mode="per_token"), addition(hook_point=HOOK)
    plain = residual(model, batch)
    with steer(model, [add, own]):
        after = residual(model, batch)
    moved = plain + add.delta().float()
    torch.testing.assert_close(after, moved - removed_at(own, moved[0])[None], atol=1e-4, rtol=1e-4)
    with steer(model, [own, add]):
        before = residual(model, batch)
    torch.testing.assert_close(before, plain - removed_at(own, plain[0])[None] + add.delta().float(), atol=1e-4, rtol=0)
    assert isinstance(own, Edit)


def test_orthogonal_projection_and_addition_are_the_same_edit_with_another_solver(model):
    batch = tokenize(model, PROMPTS[:1])
    plain = residual(model, batch)[0]
    atoms = dictionary().at(HOOK)[:3]
    with steer(model, removing(unwanted=NAMES[:3], solver=OrthogonalProjection(), mode="per_token")):
        projected = residual(model, batch)[0]
    expected = plain - torch.linalg.lstsq(atoms.T.double(), plain.T.double()).solution.T.float() @ atoms
    torch.testing.assert_close(projected, expected, atol=1e-4, rtol=1e-4)
    with steer(model, removing(unwanted=NAMES[:3], solver=VectorAddition(0.3), mode="per_token")):
        moved = residual(model, batch)[0]
    expected = plain - 0.3 * plain.norm(dim=1, keepdim=True) * atoms.sum(0)
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-4)


def test_oblique_removal_is_not_orthogonal():
    root = 3**0.5 / 2
    atoms = torch.tensor([[1.0, 0.0], [0.5, root]])
    plane = ConceptDictionary(("one", "two"), ("", ""), (HOOK,), {HOOK: atoms})
    z = torch.tensor([[3.5, 2.598076]])
    oblique = removals(plane, ["one"], solver=ElasticNet(0.0), mode="per_token")[0]
    orthogonal = removals(plane, ["one"], solver=OrthogonalProjection(), mode="per_token")[0]
    torch.testing.assert_close(z - removed_at(oblique, z), torch.tensor([[1.5, 2.598076]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(z - removed_at(orthogonal, z), torch.tensor([[0.0, 2.598076]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("solver", [SOLVER, OMP(6), OrthogonalProjection()])
def test_a_second_copy_of_an_atom_that_is_flagged_too_changes_nothing(solver):
    z = torch.randn(20, D_MODEL, generator=torch.Generator().manual_seed(1))
    once = dictionary()
    twice = ConceptDictionary(
        (*NAMES, "copy"), ("",) * (N_ATOMS + 1), (HOOK,), {HOOK: torch.cat([once.at(HOOK), once.at(HOOK)[2:3]])}
    )
    expected = removed_at(removals(once, UNWANTED, [HOOK], solver=solver)[0], z)
    found = removed_at(removals(twice, [*UNWANTED, "copy"], [HOOK], solver=solver)[0], z)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    # The copy alone flagged stands for the atom: what lies along it goes, whatever it is called.
    alone = removed_at(removals(twice, ["copy"], [HOOK], solver=solver)[0], z)
    torch.testing.assert_close(alone, removed_at(removals(once, [NAMES[2]], [HOOK], solver=solver)[0], z))


def test_strengths_scale_the_removal_and_minus_strengthens_what_was_found():
    z = torch.randn(4, D_MODEL, generator=torch.Generator().manual_seed(3))
    (own,) = removing()
    torch.testing.assert_close(removed_at(own.with_strength(-2.0), z), -2 * removed_at(own, z))
    assert own.with_strength(-2.0).prepared is own.prepared


def test_atoms_can_be_prepared_once_for_many_removals():
    ready = prepare(dictionary())
    first = removals(dictionary(), UNWANTED, solver=SOLVER, prepared=ready)
    second = removals(dictionary(), NAMES[3:5], solver=SOLVER, prepared=ready)
    assert [each.prepared for each in first] == list(ready.values()) == [each.prepared for each in second]
    assert first[0].undesirable_names == UNWANTED
    assert first[0].to_key() != second[0].to_key() != removing(HOOK)[0].with_strength(2.0).to_key()


def test_a_dictionary_of_another_model_is_refused(model):
    mine = fingerprint(open_tiny("llama", KINDS[-1]))
    chosen = removals(dictionary(fingerprint=mine), UNWANTED, [HOOK], solver=SOLVER)
    with pytest.raises(FingerprintMismatchError, match="dictionary"), steer(model, chosen):
        pass


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: removing(unwanted=()), PaceError, "0 of 40"),
        (lambda: removing(unwanted=NAMES), PaceError, "40 of 40"),
        (lambda: removing(unwanted=["concept 99"]), PaceError, "concept 99"),
        (lambda: removing(unwanted="concept 1"), PaceError, "list of concepts"),
        (lambda: removing("blocks.0.hook_resid_post"), HookPointError, "blocks.0"),
        (lambda: removals(dictionary(), UNWANTED, [], solver=SOLVER), InterventionError, "no hook points"),
        (lambda: removing(strength=float("nan")), PaceError, "strength"),
    ],
)
def test_what_cannot_be_removed_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_per_prompt_refuses_tokens_before_an_end_that_it_has_not_seen(model):
    chosen = removing(positions=ALL)
    batch = tokenize(model, PROMPTS[:1])
    n = int(batch.lengths[0])
    with (
        pytest.raises(InterventionError, match="before the end of their prompt"),
        torch.no_grad(),
        steer(model, chosen, prompt_lengths=[n + 3]),
    ):
        logits(model, batch)


def test_vectors_of_another_width_are_refused():
    with pytest.raises(PaceError):
        removed_at(removing()[0], torch.randn(2, D_MODEL + 1))


def test_it_prints_what_it_does():
    shown = str(removing(label="calm")[0])
    assert "calm" in shown
    assert "12 of 40" in shown
    assert HOOK in shown
    assert isinstance(removing()[0], ConceptRemoval)


def test_a_prompt_is_decomposed_where_only_what_follows_is_acted_on(model):
    chosen = removing(positions=GENERATED)
    options = {"max_new_tokens": 4, "stop_at_eos": False}
    cached = generate(model, PROMPTS, chosen, audit=True, **options)
    assert cached.tokens == generate(model, PROMPTS, chosen, use_cache=False, **options).tokens
    assert len(cached.audit.findings) == len(PROMPTS)
    ends = [int(length) for length in tokenize(model, PROMPTS).lengths]
    for row, end in enumerate(ends):
        assert cached.audit.positions(HOOK, row) == [end, end + 1, end + 2]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda model: generate(model, "one text"), InterventionError, "list of texts"),
        (lambda model: decompose_texts(model, "one text", dictionary()), PaceError, "give a list"),
        (lambda model: decompose_texts(model, ["text"], dictionary(), HOOK), PaceError, "give a list"),
        (lambda model: partition(dictionary(), "task", lambda task, atoms: [0.5] * 40), PaceError, "ConceptScore"),
    ],
)
def test_what_is_given_in_the_wrong_form_is_refused(model, call, error, words):
    with pytest.raises(error, match=words):
        call(model)
