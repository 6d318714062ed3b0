import pytest
import torch

from contrans_lens.errors import EvaluationError, TextError
from contrans_lens.evaluation.drift import drift
from contrans_lens.evaluation.generating import generate_cells
from contrans_lens.interventions import GENERATED, FromMarker, Intervention, generate
from tests.evaluation.behaviours.oracles import HuggingFace
from tests.tiny_models import D_MODEL, KINDS, RAW_KINDS, open_tiny

PROMPTS = ("The little fox", "Once upon a time there was a girl who", "No!", "He said: the answer is", "Every day")
POST, LATER = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"


def vector(seed=0, scale=2.0):
    return scale * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))


def add(seed=0, hook_point=POST, **options):
    return Intervention(hook_point, vector(seed), unit="absolute", **options)


CELLS = (
    (),
    (add(0),),
    (add(1),),
    (add(2), add(3, LATER)),
    (add(4, positions=GENERATED),),
    (Intervention(LATER, vector(5), op="project_out"),),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_cells_write_what_each_alone_writes(architecture, kind):
    model = open_tiny(architecture, kind)
    for rows_at_once in (64, 3):
        written = generate_cells(model, PROMPTS, CELLS, max_new_tokens=6, rows_at_once=rows_at_once)
        for number, cell in enumerate(CELLS):
            alone = generate(model, PROMPTS, cell, max_new_tokens=6)
            assert written.texts[number] == alone.texts
            assert written.tokens[number] == alone.tokens


def test_sampling_is_repeatable_and_independent_of_the_other_cells():
    model = open_tiny("gpt2", "bridge")
    options = {"max_new_tokens": 5, "temperature": 1.0, "seed": 3}
    both = generate_cells(model, PROMPTS, [CELLS[1], CELLS[2]], **options)
    assert both.texts[1] == generate_cells(model, PROMPTS, [CELLS[2]], **options).texts[0]
    assert both.texts[0] == generate_cells(model, PROMPTS, [CELLS[1]], **options).texts[0]
    assert both.texts != generate_cells(model, PROMPTS, [CELLS[1], CELLS[2]], **(options | {"seed": 4})).texts


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_drift_equals_brute_force_in_hugging_face(kind):
    model = open_tiny("llama", kind)
    written = generate_cells(model, PROMPTS, [(), (add(0),)], max_new_tokens=5)
    found = drift(model, PROMPTS, [(), (add(0),)], written=written)
    plain, steered = HuggingFace("llama", model), HuggingFace("llama", model, vector=vector(0))
    for row, prompt in enumerate(PROMPTS):
        new = written.tokens[1][row]
        ids = plain.ids(prompt)
        assert written.prompt_tokens[row] == tuple(ids)
        for step in range(len(new)):
            p, q = (side.log_p(ids + list(new[:step]))[-1] for side in (plain, steered))
            assert float(found.kl[1, row, step]) == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3, abs=1e-5)
            assert float(found.tv[1, row, step]) == pytest.approx(float((p.exp() - q.exp()).abs().sum() / 2), abs=1e-4)
            assert float(found.changed[1, row, step]) == float(p.argmax() != q.argmax())
            assert int(q.argmax()) == new[step]
        assert found.mask[1, row].tolist() == [step < len(new) for step in range(found.mask.shape[2])]
    assert float(found.kl[0].max()) == pytest.approx(0, abs=1e-5)
    assert float(found.changed[0].max()) == 0


def test_summaries_leave_out_what_was_not_written():
    model = open_tiny("gpt2", "bridge")
    found = drift(model, PROMPTS, CELLS, max_new_tokens=4)
    along, first = found.along(found.kl), found.first(found.kl)
    for cell in range(len(CELLS)):
        for row in range(len(PROMPTS)):
            steps = found.kl[cell, row][found.mask[cell, row]]
            assert float(along[cell, row]) == pytest.approx(float(steps.mean()))
            assert float(first[cell, row]) == float(steps[0])
        everything = found.kl[cell][found.mask[cell]]
        assert float(found.percentile(found.kl)[cell]) == pytest.approx(float(everything.quantile(0.95)))


def test_what_acts_on_written_tokens_alone_does_nothing_at_the_first():
    model = open_tiny("gpt2", "bridge")
    found = drift(model, PROMPTS, [CELLS[4]], max_new_tokens=4)
    assert float(found.first(found.kl).max()) == pytest.approx(0, abs=1e-5)
    assert float(found.along(found.kl).max()) > 1e-3


def test_markers_are_found_in_the_prompt():
    model = open_tiny("gpt2", "bridge")
    prompts = [f"{prompt} Answer: it" for prompt in PROMPTS]
    after = (add(0, positions=FromMarker("Answer")),)
    found = drift(model, prompts, [after], max_new_tokens=3)
    written = generate(model, prompts, after, max_new_tokens=3)
    everywhere = drift(model, prompts, [(add(0),)], max_new_tokens=3)
    assert generate_cells(model, prompts, [after], max_new_tokens=3).texts[0] == written.texts
    assert 1e-4 < float(found.first(found.kl).mean()) != float(everywhere.first(everywhere.kl).mean())


def test_bad_input_is_named():
    model = open_tiny("gpt2", "bridge")
    with pytest.raises(EvaluationError, match="no prompts"):
        generate_cells(model, [], [()])
    with pytest.raises(TextError, match="empty"):
        generate_cells(model, ["The", ""], [()])
    with pytest.raises(EvaluationError, match="cell 1 hold NaN"):
        drift(model, PROMPTS, [(), (Intervention(POST, torch.full((D_MODEL,), 3e38), unit="absolute"),)])
