"""Sweeps over cells against one full forward pass per cell, on every architecture and both model classes."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrans_lens.errors import EvaluationError, HookPointError
from contrans_lens.evaluation import (
    damage_cells,
    damage_vectors,
    resuming,
    score_cells,
    score_vectors,
    solve_cell_strengths,
    solve_strengths,
    stacked,
)
from contrans_lens.evaluation.continuations import plan_items
from contrans_lens.evaluation.norms import mean_norms
from contrans_lens.evaluation.resuming import common_cut, entry_point, next_block, trimmed
from contrans_lens.evaluation.stacked import StackedRuns
from contrans_lens.models import hooks, logits, open_model, tokenize
from contrans_lens.texts import EvaluationItem
from tests.tiny_models import ARCHITECTURES, D_MODEL, KINDS, N_LAYERS, TEXTS, open_tiny, tiny_folder

BEGINNING = "Question: Is the old man happy or sad? "
ITEMS = (
    EvaluationItem(BEGINNING + "He is", " happy", " sad"),
    EvaluationItem(BEGINNING + "She said that the sky is", " green?", " cold!"),  # two rows with one beginning
    EvaluationItem(BEGINNING + "Answer:", " yes", " no"),
    EvaluationItem("Once upon a time there was a little girl who liked", " to sing", " to run"),
)
HOOK_POINTS = (
    "blocks.0.hook_resid_pre",
    "blocks.0.hook_resid_post",
    "blocks.2.hook_resid_post",
    "blocks.2.hook_mlp_out",
    "blocks.3.hook_attn_out",
    "blocks.3.hook_resid_post",
)


def additions(n, seed=0, scale=2.0):
    return scale * torch.randn(n, D_MODEL, generator=torch.Generator().manual_seed(seed))


def make_cells(n=6):
    return {name: additions(n + place, place) for place, name in enumerate(HOOK_POINTS)}


def restarted(model, tokens, hook_point, addition):
    """Logits ``[pos, vocab]`` of one row on its own, with nothing but an additive hook."""
    batch = tokenize(model, ["x"])
    one = type(batch)(torch.tensor([tokens]), torch.ones(1, len(tokens), dtype=torch.bool), True, "right", ((),), (0,))
    with hooks(model, {hook_point: lambda activation: activation + addition}):
        return logits(model, one)[0]


def largest_difference(model, runs, cells):
    """Between what is read in a sweep and a full forward pass per row and cell, relative to the largest logit."""
    worst = 0.0
    for group in runs.groups(max(map(len, cells.values()))):
        for name, added in cells.items():
            seen = []
            for part, found in runs.logits(group, added, name):
                seen += range(part.start, part.stop)
                for place, cell in enumerate(range(part.start, part.stop)):
                    for row, index in enumerate(group):
                        expected = restarted(model, runs.rows[index].tokens, name, added[cell])[runs.positions(index)]
                        own = found[place, row, : len(expected)]
                        worst = max(worst, float((own - expected).abs().max() / expected.abs().max()))
            assert seen == list(range(len(added)))
    return worst


def has_cache(kind):
    return kind != "native"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_equal_a_full_pass_per_cell(architecture, kind, monkeypatch):
    monkeypatch.setattr(stacked, "_WORTH_SHARING", 1)
    model = open_tiny(architecture, kind)
    cells = {name: vectors[:2] for name, vectors in make_cells().items()}
    runs = StackedRuns(model, plan_items(model, ITEMS), HOOK_POINTS)
    assert largest_difference(model, runs, cells) < 1e-5
    assert runs._stands == dict.fromkeys(HOOK_POINTS, True)
    assert runs._trims
    assert (runs._cut > 0) == has_cache(kind)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("hooked", "bridge")])
@pytest.mark.parametrize("token_budget", [1, 100, None])
def test_grouping_changes_nothing(kind, token_budget):
    model = open_tiny("neox", kind)
    cells = {name: vectors[: 5 if token_budget == 1 else None] for name, vectors in make_cells(12).items()}
    together = score_cells(model, ITEMS, cells, measure="log_odds", token_budget=token_budget)
    assert list(together) == list(cells)
    for name, added in cells.items():
        plain = score_vectors(model, ITEMS, name, added, measure="log_odds", fan_out=False)
        assert torch.allclose(together[name], plain, atol=1e-4)
        alone = score_vectors(model, ITEMS, name, added[3:4], measure="log_odds")
        assert torch.allclose(together[name][3:4], alone, atol=1e-4)
        shared = score_vectors(model, ITEMS, name, added, measure="log_odds", fan_out=True)
        assert torch.allclose(together[name], shared, atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("hooked", "bridge")])
def test_the_part_before_a_hook_point_is_run_once_for_all_cells(kind):
    model, cells = open_tiny("gpt2", kind), {f"blocks.{layer}.hook_resid_post": additions(40) for layer in (1, 2)}
    score_cells(model, ITEMS, cells)  # what the model stands is known from here on
    rows_seen = {"blocks.0.hook_resid_pre": 0, "blocks.3.hook_resid_pre": 0}
    passes = 0

    def count(name):
        def seen(activation):
            nonlocal passes
            rows_seen[name] += len(activation)
            passes += name.startswith("blocks.0")

        return seen

    with hooks(model, {name: count(name) for name in rows_seen}):
        score_cells(model, ITEMS, cells)
    n_rows = len(plan_items(model, ITEMS))
    assert rows_seen["blocks.0.hook_resid_pre"] <= n_rows + passes  # every row once, and one row a pass
    assert rows_seen["blocks.3.hook_resid_pre"] >= 2 * 40 * n_rows


def test_a_common_beginning_is_run_once_per_addition():
    model, name = open_tiny("llama", "bridge"), "blocks.1.hook_resid_post"
    items = [EvaluationItem(f"{BEGINNING}{word}", " yes", " no") for word in ("He", "She", "Day", "Grass", "River")]
    tokens = 0

    def count(activation):
        nonlocal tokens
        tokens += activation.shape[0] * activation.shape[1]

    score_vectors(model, items, name, additions(64))
    rows = plan_items(model, items)
    with hooks(model, {"blocks.3.hook_resid_pre": count}):
        shared = score_vectors(model, items, name, additions(64))
    assert tokens < 0.6 * 64 * sum(len(row.tokens) for row in rows)
    assert torch.allclose(shared, score_vectors(model, items, name, additions(64), fan_out=False), atol=1e-5)


@pytest.mark.parametrize("kept", [0, 600, 1 << 26])
def test_residuals_need_not_be_kept(monkeypatch, kept):
    model, cells = open_tiny("gpt2", "bridge"), {f"blocks.{layer}.hook_resid_post": additions(5) for layer in (1, 2)}
    expected = solve_cell_strengths(model, TEXTS, cells, budget=0.1, tolerance=0.1, checks=0)
    monkeypatch.setattr(resuming, "_KEPT_VALUES", kept)
    found = solve_cell_strengths(model, TEXTS, cells, budget=0.1, tolerance=0.1, checks=0)
    for one, other in zip(itertools.chain(*found.values()), itertools.chain(*expected.values()), strict=True):
        assert one.strength == pytest.approx(other.strength, rel=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("hooked", "bridge")])
def test_other_hooks_of_the_model_act_as_in_a_full_pass(kind):
    model, cells = open_tiny("llama", kind), make_cells(20)
    [before, after] = additions(2, seed=9, scale=0.5)
    others = {
        "blocks.0.hook_resid_post": lambda activation: activation + before,
        "blocks.2.hook_resid_post": lambda activation: activation * 1.5,
        "blocks.3.hook_mlp_out": lambda activation: activation + after,
    }
    with hooks(model, others):
        found = score_cells(model, ITEMS, cells, measure="log_odds")
        for name, added in cells.items():
            plain = score_vectors(model, ITEMS, name, added[:2], measure="log_odds", fan_out=False)
            assert torch.allclose(found[name][:2], plain, atol=1e-4), name


def test_somebody_looking_into_the_last_mlp_sees_all_positions():
    model, widths = open_tiny("gpt2", "bridge"), set()
    name = next(name for name in model.hook_dict if name.startswith("blocks.3.mlp.") and name.endswith("hook_out"))
    with hooks(model, {name: lambda activation: widths.add(activation.shape[1])}):
        score_vectors(model, ITEMS[:1], "blocks.2.hook_resid_post", additions(64))
    assert min(widths) > 1


def test_bfloat16_is_close():
    model = open_model(tiny_folder("llama"), kind="bridge", dtype=torch.bfloat16, device="cpu")
    cells = {name: vectors for name, vectors in make_cells(20).items() if name != "blocks.2.hook_mlp_out"}
    found, exact = score_cells(model, ITEMS, cells), score_cells(open_tiny("llama", "bridge"), ITEMS, cells)
    assert all((found[name] - exact[name]).abs().median() < 0.05 for name in cells)


def test_an_error_leaves_no_hook_behind(monkeypatch):
    model = open_tiny("gpt2", "bridge", fresh=True)
    logits(model, tokenize(model, list(TEXTS)))  # a bridge attaches hooks of its own when it is first run
    attached = {name: len(module._forward_hooks) for name, module in model.named_modules()}

    def fails(self, *args, **kwargs):
        raise KeyError("from within")

    monkeypatch.setattr(type(model.blocks[3].mlp), "forward", fails)
    with pytest.raises(KeyError):
        score_vectors(model, ITEMS, "blocks.1.hook_resid_post", additions(4), fan_out=True)
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == attached
    assert not model.blocks[3].mlp._forward_pre_hooks
    assert not model.unembed._forward_pre_hooks


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("hooked", "bridge")])
def test_damage_and_strengths_of_cells_equal_those_of_each_hook_point(kind):
    model = open_tiny("qwen3", kind)
    cells = {f"blocks.{layer}.hook_resid_post": additions(3 + layer, layer, 0.5) for layer in (0, 2)}
    damages = damage_cells(model, TEXTS, cells)
    solved = solve_cell_strengths(model, TEXTS, cells, budget=0.05, measure="kl", checks=2)
    for name, added in cells.items():
        for one, other in zip(damages[name], damage_vectors(model, TEXTS, name, added, fan_out=False), strict=True):
            assert one.kl == pytest.approx(other.kl, rel=1e-4)
            assert one.perplexity == pytest.approx(other.perplexity, rel=1e-4)
        for one, other in zip(
            solved[name], solve_strengths(model, TEXTS, name, added, budget=0.05, checks=2), strict=True
        ):
            assert one.strength == pytest.approx(other.strength, rel=1e-3)
            assert one.measured == pytest.approx(other.measured, rel=1e-3)


def test_mean_norms_equal_a_loop():
    model, names = open_tiny("gpt2", "bridge"), ["blocks.2.hook_resid_post", "blocks.0.hook_resid_pre", "hook_embed"]
    batch = tokenize(model, list(TEXTS))
    found = mean_norms(model, [batch], names)
    for name in names:
        norms: list[torch.Tensor] = []

        def keep(activation, norms=norms):
            norms.append(activation.norm(dim=-1))

        with hooks(model, {name: keep}):
            logits(model, batch)
        kept = [row[1:length] for row, length in zip(norms[0], batch.lengths.tolist(), strict=True)]
        assert found[name] == pytest.approx(float(torch.cat(kept).mean()), rel=1e-5)


rows_of_tokens = st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=9), min_size=1, max_size=8)


@given(rows=rows_of_tokens, limit=st.integers(0, 4))
def test_the_cut_saves_most_tokens(rows, limit):
    def tokens_run(cut):
        return len({tuple(row[:cut]) for row in rows}) * cut + sum(len(row) - cut for row in rows)

    best, total = min(map(tokens_run, range(limit + 1))), tokens_run(0)
    assert tokens_run(common_cut(rows, limit)) == (best if total - best >= 0.2 * total else total)


def test_where_a_pass_is_resumed():
    assert entry_point("blocks.2.hook_resid_post") == "blocks.2.hook_resid_post"
    assert entry_point("blocks.2.attn.hook_z") == "blocks.2.hook_resid_pre"
    assert entry_point("hook_embed") is None
    assert [next_block(f"blocks.2.hook_resid_{site}") for site in ("pre", "post")] == [2, 3]


def test_trimming_runs_only_what_is_read():
    layer, states = torch.nn.Linear(3, 3), torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    whole = layer(states)
    with trimmed(layer, torch.tensor([[1, 4], [0, 0]])):
        found = layer(states)
    expected = torch.zeros_like(whole)
    for row, position in ((0, 1), (0, 4), (1, 0)):
        expected[row, position] = whole[row, position]
    assert torch.allclose(found, expected)
    assert torch.equal(layer(states), whole)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: score_cells(m, ITEMS, {}), EvaluationError, "no cells"),
        (lambda m: damage_cells(m, TEXTS, {}), EvaluationError, "no cells"),
        (lambda m: solve_cell_strengths(m, TEXTS, {}, budget=0.1), EvaluationError, "no cells"),
        (lambda m: score_cells(m, ITEMS, {"blocks.9.hook_resid_post": additions(1)}), HookPointError, "blocks.9"),
        (
            lambda m: score_cells(m, ITEMS, {HOOK_POINTS[0]: additions(1), HOOK_POINTS[1]: torch.ones(1, 3)}),
            EvaluationError,
            "at blocks.0.hook_resid_post",
        ),
        (
            lambda m: solve_cell_strengths(m, TEXTS, {HOOK_POINTS[1]: torch.zeros(1, D_MODEL)}, budget=0.1),
            EvaluationError,
            "vector 0 at blocks.0.hook_resid_post is zero",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(open_tiny("gpt2", "bridge"))


def test_the_last_layer_is_the_last_one():
    assert f"blocks.{N_LAYERS - 1}.hook_resid_post" in HOOK_POINTS
