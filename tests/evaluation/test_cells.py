import pytest
import torch

from contrans_lens.errors import EvaluationError, FingerprintMismatchError, HookPointError
from contrans_lens.evaluation import (
    Cells,
    damage,
    scaled,
    score_items,
    score_steered,
    solve_directions,
    solve_strengths,
)
from contrans_lens.evaluation.cells import cell_additions, stack_logits, stacks_as_rows
from contrans_lens.evaluation.continuations import plan_items
from contrans_lens.evaluation.meter import DamageMeter
from contrans_lens.interventions import PROMPT, Intervention
from contrans_lens.models import fingerprint
from contrans_lens.texts import EvaluationItem
from tests.tiny_models import D_MODEL, KINDS, TEXTS, open_tiny

ITEMS = (
    EvaluationItem("The sky is", " green", " grass"),
    EvaluationItem("Once upon a time there was", " a girl", " a man"),
    EvaluationItem("Every day the man walked to the river and felt hap", "py", "less"),
    EvaluationItem("Is the sky green? Answer:", " yes", " no"),
)
POST, LATER, MIDDLE = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post", "blocks.2.hook_mlp_out"


def vector(seed, scale=2.0):
    return scale * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))


def add(hook_point, seed=0, strength=1.0, **options):
    return Intervention(hook_point, vector(seed), unit="absolute", strength=strength, **options)


CELLS = (
    (),
    (add(POST),),
    (add(POST, 1), add(LATER, 2, -0.5)),
    (add(LATER, 2), add(POST, 3)),  # given in the wrong order
    (add(MIDDLE, 4), add(LATER, 5)),
    (add(POST, 1), add(POST, 2)),  # twice at one hook point
    (add(POST, 0, 0.0),),  # neutral
    (Intervention(LATER, vector(6), op="project_out"),),
    (add(POST, 7, positions=PROMPT), add(LATER, 8)),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_stacked_cells_equal_one_at_a_time(architecture, kind):
    model = open_tiny(architecture, kind)
    expected = torch.stack([score_items(model, ITEMS, cell, measure="log_odds") for cell in CELLS])
    found = score_steered(model, ITEMS, CELLS, measure="log_odds")
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(found[6], found[0])


def test_many_cells_resume_and_still_equal_one_at_a_time():
    model = open_tiny("llama", "bridge")
    cells = [(add(POST, seed), add(LATER, seed + 100)) for seed in range(40)]
    runs = Cells(model, cells).runs(model, plan_items(model, ITEMS * 2))
    groups = runs.groups(40)
    list(stack_logits(runs, groups[0], Cells(model, cells).stacks))
    assert runs._stands == {POST: True}  # they do share what lies before the first hook point
    expected = torch.stack([score_items(model, ITEMS, cell, measure="log_odds") for cell in cells])
    assert torch.allclose(score_steered(model, ITEMS, cells, measure="log_odds"), expected, atol=1e-5)


def test_damage_of_cells_equals_damage_of_interventions():
    model = open_tiny("gpt2", "bridge")
    cells = Cells(model, CELLS)
    totals = DamageMeter(model, TEXTS, cells.first_hook_points).totals_of(cells)
    for number, cell in enumerate(CELLS):
        expected = damage(model, TEXTS, cell)
        tokens = expected.n_tokens
        assert float(totals.kl[number].sum() / tokens) == pytest.approx(expected.kl, rel=1e-4, abs=1e-6)
        assert float(totals.tv[number].sum() / tokens) == pytest.approx(expected.tv, rel=1e-4, abs=1e-5)
        assert float(totals.nll[number].sum() / tokens) == pytest.approx(expected.nll, rel=1e-5)
    with pytest.raises(EvaluationError, match="made for"):
        DamageMeter(model, TEXTS, [LATER]).totals_of(cells)


def test_a_direction_at_one_hook_point_is_solved_like_a_vector():
    model = open_tiny("gpt2", "bridge")
    vectors = torch.stack([vector(0), vector(1)])
    expected = solve_strengths(model, TEXTS, POST, vectors, budget=0.05)
    found = solve_directions(model, TEXTS, [(add(POST, seed),) for seed in range(2)], budget=0.05)
    for one, other in zip(found, expected, strict=True):
        assert one.strength == pytest.approx(other.strength, rel=1e-4)
        assert one.measured == pytest.approx(0.05, rel=0.02)


def test_a_direction_at_two_hook_points_and_a_projection_reach_the_budget():
    model = open_tiny("gpt2", "bridge")
    directions = [(add(POST), add(LATER, 1)), (Intervention(POST, vector(2), op="project_out"),)]
    both, projected = solve_directions(model, TEXTS, directions, budget=0.02)
    assert damage(model, TEXTS, scaled(directions[0], both.strength)).kl == pytest.approx(0.02, rel=0.02)
    at = damage(model, TEXTS, scaled(directions[1], projected.strength)).kl
    assert at == pytest.approx(projected.measured, rel=1e-3)
    assert projected.reached == (at > 0.019)
    assert projected.strength <= 1


def test_what_stacks_and_what_a_cell_adds():
    assert [stacks_as_rows(cell) for cell in CELLS] == [True] * 7 + [False, False]
    assert not stacks_as_rows((add("hook_embed"),))
    assert list(cell_additions(CELLS[3])) == [POST, LATER]
    assert list(cell_additions((add("blocks.2.hook_resid_pre"), add(POST)))) == [POST, "blocks.2.hook_resid_pre"]
    assert torch.allclose(cell_additions(CELLS[5])[POST], (vector(1) + vector(2)).double())
    assert torch.allclose(cell_additions(scaled(CELLS[1], -3.0))[POST], -3 * vector(0).double())


@pytest.mark.parametrize(
    ("cells", "error", "message"),
    [
        ([], EvaluationError, "no cells"),
        ([(Intervention(POST, torch.ones(3), unit="absolute"),)], EvaluationError, "width 3"),
        ([(add("blocks.9.hook_resid_post"),)], HookPointError, "blocks.9"),
    ],
)
def test_bad_cells_are_named(cells, error, message):
    with pytest.raises(error, match=message):
        Cells(open_tiny("gpt2", "bridge"), cells)


def test_a_cell_made_for_another_model_is_refused():
    other = fingerprint(open_tiny("llama", "bridge"))
    with pytest.raises(FingerprintMismatchError):
        Cells(open_tiny("gpt2", "bridge"), [(), (add(POST, fingerprint=other),)])


def test_a_direction_that_does_nothing_is_named():
    with pytest.raises(EvaluationError, match="direction 1 does nothing"):
        solve_directions(open_tiny("gpt2", "bridge"), TEXTS, [(add(POST),), (add(POST, strength=0.0),)], budget=0.1)
