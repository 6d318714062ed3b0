import pytest
import torch

from contrans_lens.errors import FingerprintMismatchError, HookPointError, InterventionError
from contrans_lens.interventions import GENERATED, PROMPT, Between, FromMarker, Intervention, add_rows, generate, steer
from contrans_lens.models import fingerprint, hooks, logits, tokenize
from tests.interventions.cases import HOOK, LATER, PROMPTS, addition, n_hooks, real_rows, residual, vector
from tests.interventions.oracles import adding, hf_greedy, hf_logits
from tests.tiny_models import D_MODEL, HF_KINDS, KINDS, RAW_KINDS, open_tiny


@pytest.fixture(params=KINDS)
def model(request):
    return open_tiny("gpt2", request.param)


@pytest.mark.parametrize("kind", RAW_KINDS)
@pytest.mark.parametrize("op", ["project_out", "clamp"])
def test_projecting_and_clamping_equal_a_hugging_face_hook(kind, op):
    model = open_tiny("llama", kind)
    batch = tokenize(model, PROMPTS[:1])
    steering = Intervention(HOOK, vector(), op, strength=0.7, residual_norm=5.0, value=1.5 if op == "clamp" else None)
    unit = vector() / vector().norm()
    target = 7.5 if op == "clamp" else 0.0

    def change(residual):
        return residual + 0.7 * (target - residual @ unit)[..., None] * unit

    with torch.no_grad(), steer(model, steering):
        found = logits(model, batch)[0]
    torch.testing.assert_close(found, hf_logits("llama", batch.tokens[0].tolist(), {1: change}), atol=2e-4, rtol=1e-4)


def test_after_projecting_out_the_component_is_gone_and_after_clamping_it_is_the_value(model):
    batch = tokenize(model, PROMPTS, padding_side="left")
    unit = vector() / vector().norm()
    for op, value in (("project_out", None), ("clamp", -3.0)):
        with steer(model, Intervention(HOOK, vector(), op, unit="absolute", value=value)):
            seen = residual(model, batch) @ unit
        torch.testing.assert_close(seen, torch.full_like(seen, value or 0.0), atol=1e-5, rtol=0)


def test_several_at_one_hook_point_apply_in_the_given_order(model):
    batch = tokenize(model, PROMPTS[:1])
    add, project = addition(), Intervention(HOOK, vector(), "project_out")
    unit = vector() / vector().norm()
    components = []
    for chosen in ([add, project], [project, add]):
        with steer(model, chosen):
            components.append(residual(model, batch) @ unit)
    torch.testing.assert_close(components[0], torch.zeros_like(components[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(components[1], torch.full_like(components[1], float(vector().norm())))


@pytest.mark.parametrize("kind", HF_KINDS)
def test_several_at_several_hook_points_equal_hugging_face_hooks(kind):
    model = open_tiny("qwen3", kind)
    batch = tokenize(model, PROMPTS[:1])
    chosen = [addition(PROMPT), addition(GENERATED, LATER, 1), addition(Between(2), LATER, 2, strength=0.5)]
    ids = batch.tokens[0].tolist()

    def later(residual):
        steered = adding(vector(1), len(ids))(residual)
        return adding(0.5 * vector(2), 2)(steered)

    found = generate(model, PROMPTS[:1], chosen, max_new_tokens=6, stop_at_eos=False).tokens[0]
    assert list(found) == hf_greedy("qwen3", ids, {1: adding(vector(), 0, len(ids)), 2: later}, 6)


def test_nested_blocks_act_one_after_the_other_and_know_their_model(model):
    batch = tokenize(model, PROMPTS[:1])
    mine = fingerprint(model)
    outer, inner = addition(fingerprint=mine), addition(seed=1, fingerprint=mine)
    with torch.no_grad():
        with steer(model, [outer, inner]):
            expected = logits(model, batch)
        # The second block reads the fingerprint of a model that is being steered, on another batch than it was given.
        with steer(model, outer, batch=batch, audit=True) as session, steer(model, inner):
            assert torch.equal(logits(model, batch), expected)
        assert {each.sequence for each in session.audit.changes} == {0}


def test_prompt_lengths_steer_a_teacher_forced_continuation_as_generation_would(model):
    steering = addition(GENERATED)
    written = generate(model, PROMPTS, steering, max_new_tokens=4, stop_at_eos=False)
    lengths = tokenize(model, PROMPTS).lengths.tolist()
    rows = [[*ids, *new] for ids, new in zip(real_rows(tokenize(model, PROMPTS)), written.tokens, strict=True)]
    for ids, length in zip(rows, lengths, strict=True):
        with torch.no_grad(), steer(model, steering, prompt_lengths=[length]):
            again = model(torch.tensor([ids]), return_type="logits")[0]
        assert again[length - 1 : -1].argmax(-1).tolist() == ids[length:]


@pytest.mark.parametrize("side", ["left", "right"])
def test_giving_the_batch_and_texts_steers_the_same_tokens_as_watching(model, side):
    batch = tokenize(model, PROMPTS, padding_side=side)
    steering = addition(FromMarker("Answer:", after=True))
    found = []
    for options in ({}, {"batch": batch}, {"batch": batch, "texts": PROMPTS}):
        with torch.no_grad(), steer(model, steering, audit=True, **options) as session:
            out = logits(model, batch)
        found.append(([row[mask] for row, mask in zip(out, batch.mask, strict=True)], session.audit))
    for out, _ in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(out, found[0][0], strict=True))
    assert found[1][1].changed == found[2][1].changed


@pytest.mark.parametrize("op", ["add", "project_out"])
def test_gradients_flow_through_steering_even_after_generation_in_the_same_block(model, op):
    steering = Intervention(HOOK, vector(), op, unit="absolute")
    seen = []

    def keep(activation):
        if activation.requires_grad:
            activation.retain_grad()
            seen.append(activation)

    ids = tokenize(model, PROMPTS[:1]).tokens
    with hooks(model, {HOOK.replace("1", "0"): keep}), steer(model, steering):
        with torch.inference_mode():
            logits(model, tokenize(model, PROMPTS[:1]))
        model(ids, return_type="logits")[0, -1, 0].backward()
    assert seen[0].grad.abs().sum() > 0
    for parameter in model.parameters():
        parameter.grad = None


def test_unsteered_positions_stay_bit_identical(model):
    batch = tokenize(model, PROMPTS[:1])
    with torch.no_grad():
        plain = logits(model, batch)[0]
        with steer(model, addition(Between(4))):
            steered = logits(model, batch)[0]
    assert torch.equal(steered[:4], plain[:4])
    assert not torch.isclose(steered[4:], plain[4:]).all(-1).any()


@pytest.mark.parametrize("options", [{}, {"audit": True}])
def test_hooks_are_gone_after_the_block_and_after_an_exception(model, options):
    before = n_hooks(model)
    with steer(model, addition(GENERATED), **options):
        assert n_hooks(model) > before
    assert n_hooks(model) == before
    with pytest.raises(ZeroDivisionError), steer(model, [addition(), addition(GENERATED, LATER)], **options):
        _ = 1 / 0
    assert n_hooks(model) == before
    with (
        pytest.raises(InterventionError),
        torch.no_grad(),
        steer(model, addition(FromMarker("absent")), **options),
    ):
        logits(model, tokenize(model, PROMPTS))
    assert n_hooks(model) == before
    with pytest.raises(ZeroDivisionError), add_rows(model, HOOK, torch.zeros(1, D_MODEL)):
        _ = 1 / 0
    assert n_hooks(model) == before


def test_strength_zero_attaches_no_hook(model):
    before = n_hooks(model)
    with steer(model, [addition(strength=0.0), Intervention(HOOK, vector(), "project_out", strength=0.0)], audit=True):
        assert n_hooks(model) == before


def test_an_unknown_hook_point_is_refused_even_at_strength_zero(model):
    with (
        pytest.raises(HookPointError, match="hook_resid_pots"),
        steer(model, addition(hook_point="blocks.1.hook_resid_pots", strength=0.0)),
    ):
        pass


def test_another_width_is_refused_before_anything_runs(model):
    wrong = Intervention(HOOK, torch.ones(D_MODEL + 1), residual_norm=1.0)
    with (
        pytest.raises(InterventionError, match=f"width {D_MODEL + 1}.*d_model {D_MODEL}"),
        steer(model, wrong),
    ):
        pass


def test_another_model_is_refused(model):
    other = fingerprint(open_tiny("gpt2", RAW_KINDS[0], seed=1))
    with pytest.raises(FingerprintMismatchError), steer(model, addition(fingerprint=other)):
        pass
    with pytest.raises(FingerprintMismatchError):
        generate(model, PROMPTS, addition(fingerprint=other), max_new_tokens=1)


def test_an_absent_marker_names_the_prompt(model):
    prompts = ["Answer: yes", "The little fox"]
    with pytest.raises(InterventionError, match=r"prompt 1.*little fox"):
        generate(model, prompts, addition(FromMarker("Answer:")), max_new_tokens=2)
    batch = tokenize(model, prompts)
    with pytest.raises(InterventionError, match=r"row 1.*little fox"), steer(model, addition(FromMarker("Answer:"))):
        logits(model, batch)


def test_positions_outside_the_blocks_are_refused(model):
    steering = Intervention("hook_embed", vector(), unit="absolute", positions=PROMPT)
    with pytest.raises(InterventionError, match="stands in no block"), steer(model, steering):
        pass


def test_another_batch_than_the_given_one_is_refused(model):
    batch = tokenize(model, PROMPTS)
    with torch.no_grad(), steer(model, addition(PROMPT), batch=batch):
        logits(model, batch)
        with pytest.raises(InterventionError, match="given a batch of"):
            logits(model, tokenize(model, PROMPTS[:2]))


def test_texts_without_their_batch_and_wrong_counts_are_refused(model):
    batch = tokenize(model, PROMPTS)
    for options in (
        {"texts": PROMPTS},
        {"batch": batch, "texts": PROMPTS[:1]},
        {"batch": batch, "prompt_lengths": [1]},
    ):
        with pytest.raises(InterventionError), steer(model, addition(PROMPT), **options):
            pass


@pytest.mark.parametrize("kind", [kind for kind in HF_KINDS if kind.startswith("bridge")])
def test_a_cache_filled_outside_the_block_is_refused(kind):
    model = open_tiny("llama", kind)
    ids = tokenize(model, PROMPTS[:1]).tokens
    with torch.no_grad():
        _, cache = model(ids, return_type="logits_and_cache", use_cache=True)
        with pytest.raises(InterventionError, match="filled outside"), steer(model, addition(GENERATED)):
            model(ids[:, :1], return_type="logits_and_cache", past_key_values=cache, use_cache=True)


@pytest.mark.parametrize("kind", [kind for kind in HF_KINDS if kind.startswith("bridge")])
def test_several_tokens_at_once_on_a_filled_cache_need_prompt_lengths(kind):
    model = open_tiny("llama", kind)
    ids = tokenize(model, PROMPTS[:1]).tokens
    options = {"return_type": "logits_and_cache", "use_cache": True}
    with torch.no_grad(), steer(model, addition(GENERATED)):
        _, cache = model(ids[:, :4], **options)
        with pytest.raises(InterventionError, match="filled cache"):
            model(ids[:, 4:], past_key_values=cache, **options)
    with torch.no_grad(), steer(model, addition(GENERATED), prompt_lengths=[6], audit=True) as session:
        _, cache = model(ids[:, :4], **options)
        model(ids[:, 4:], past_key_values=cache, **options)
    assert session.audit.positions(HOOK, 0) == list(range(6, ids.shape[1]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("hooked")])
def test_a_pass_that_skips_the_steered_block_is_refused(kind):
    model = open_tiny("gpt2", kind)
    ids = tokenize(model, PROMPTS[:1]).tokens
    with torch.no_grad(), steer(model, [addition(PROMPT), addition(PROMPT, LATER)]):
        residual = model(ids, stop_at_layer=2)
        model(residual, start_at_layer=2)
        with pytest.raises(InterventionError, match="positions are unknown"):
            model(residual, start_at_layer=2)
