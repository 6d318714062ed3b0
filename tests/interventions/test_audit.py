import pytest
import torch

from contrans_lens.errors import InterventionError
from contrans_lens.interventions import GENERATED, PROMPT, FromMarker, steer
from contrans_lens.models import generate_tokens, logits, tokenize
from tests.interventions.cases import HOOK, LATER, PROMPTS, addition, marker_ranks, vector
from tests.tiny_models import KINDS, open_tiny


@pytest.fixture(params=KINDS)
def model(request):
    return open_tiny("gpt2", request.param)


def test_the_audit_names_exactly_what_was_changed(model):
    steering = [addition(FromMarker("Answer:")), addition(PROMPT, LATER, 1, strength=2.0)]
    batch = tokenize(model, PROMPTS, padding_side="right")
    starts = marker_ranks(batch, PROMPTS)
    lengths = batch.lengths.tolist()
    expected = {(HOOK, 0, row, p) for row in range(3) for p in range(starts[row], lengths[row] + 3)}
    expected |= {(LATER, 0, row, p) for row in range(3) for p in range(lengths[row])}
    for side in ("left", "right"):
        for use_cache in (True, False):
            padded = tokenize(model, PROMPTS, padding_side=side)
            with steer(model, steering, audit=True) as session:
                generate_tokens(model, padded, max_new_tokens=4, use_cache=use_cache, stop_at_eos=False)
            assert session.audit.changed == expected
            for change in session.audit.changes:
                size = vector().norm() if change.hook_point == HOOK else 2 * vector(1).norm()
                assert change.norm == pytest.approx(float(size), rel=1e-4)


def test_the_audit_reports_what_happened_not_what_was_meant(model):
    batch = tokenize(model, PROMPTS[:2])
    with torch.no_grad(), steer(model, [addition(), addition(strength=-1.0)], audit=True) as session:
        logits(model, batch)
    assert max((each.norm for each in session.audit.changes), default=0.0) < 1e-5
    with torch.no_grad(), steer(model, addition(GENERATED), audit=True) as session:
        logits(model, batch)
    assert len(session.audit) == 0
    assert str(session.audit) == "nothing was changed"


def test_padding_is_never_counted(model):
    for side in ("left", "right"):
        batch = tokenize(model, PROMPTS, padding_side=side)
        with torch.no_grad(), steer(model, addition(), batch=batch, audit=True) as session:
            logits(model, batch)
        for row, length in enumerate(batch.lengths.tolist()):
            assert session.audit.positions(HOOK, row) == list(range(length))
        assert f"{int(batch.lengths.sum())} tokens in 3 rows" in str(session.audit)


def test_each_prompt_batch_is_a_sequence_of_its_own(model):
    batch = tokenize(model, PROMPTS[:1])
    with torch.no_grad(), steer(model, addition(), audit=True) as session:
        logits(model, batch)
        logits(model, batch)
    assert {each.sequence for each in session.audit.changes} == {0, 1}
    assert session.audit.to_rows()[0]["hook_point"] == HOOK


def test_without_audit_there_is_nothing_to_read(model):
    with steer(model, addition()) as session, pytest.raises(InterventionError, match="audit=True"):
        _ = session.audit
