import pytest
import torch

from contrans_lens.errors import SelectionError
from contrans_lens.evaluation import score_items
from contrans_lens.interventions import Intervention
from contrans_lens.models import resid_post
from contrans_lens.selection import Candidate, SweepCell, best_cell, sweep
from contrans_lens.texts import EvaluationItem
from tests.tiny_models import open_tiny

ITEMS = [EvaluationItem("the cat sat on", " the", " a"), EvaluationItem("a dog ran", " to", " the")]


def test_cells_equal_one_intervention_at_a_time():
    model = open_tiny("gpt2", kind="bridge")
    generator = torch.Generator().manual_seed(0)
    places = [("a", resid_post(0)), ("b", resid_post(1)), ("c", resid_post(0))]
    candidates = [Candidate(s, t, torch.randn(model.cfg.d_model, generator=generator)) for s, t in places]
    norms = {resid_post(0): 2.0, resid_post(1): 3.0}
    cells = sweep(model, ITEMS, candidates, norms, lambda target, units: [0.5] * len(units))
    for cell, candidate in zip(cells, candidates, strict=True):
        assert (cell.source, cell.target) == (candidate.source, candidate.target)
        steer = Intervention(candidate.target, candidate.direction, strength=0.5, residual_norm=norms[candidate.target])
        assert cell.score_plus == pytest.approx(float(score_items(model, ITEMS, steer).mean()), abs=1e-5)
        assert cell.score_minus == pytest.approx(float(score_items(model, ITEMS, -steer).mean()), abs=1e-5)
        assert cell.effect == pytest.approx(cell.score_plus - cell.score_minus)


def test_the_best_cell_has_the_largest_effect_and_the_first_wins_ties():
    cells = [SweepCell(name, "t", 1.0, effect, 0.5, 0.5) for name, effect in (("a", 0.1), ("b", 0.3), ("c", 0.3))]
    assert best_cell(cells).source == "b"


def test_a_zero_candidate_is_refused():
    model = open_tiny("gpt2", kind="bridge")
    zero = Candidate("a", resid_post(0), torch.zeros(model.cfg.d_model))
    with pytest.raises(SelectionError, match="zero"):
        sweep(model, ITEMS, [zero], {resid_post(0): 1.0}, lambda target, units: [1.0] * len(units))


def test_nothing_to_sweep_is_refused():
    with pytest.raises(SelectionError):
        best_cell([])
