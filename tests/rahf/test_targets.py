"""The loss of a fit and its targets."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from contrans_lens.errors import RahfError
from contrans_lens.models.plain import blocks, open_plain, truncate
from contrans_lens.rahf.adapters import add_adapter
from contrans_lens.rahf.targets import FitTargets, only_adapter_dropout
from contrans_lens.rahf.training import LoraSettings
from tests.rahf.fitting import POINTS, ROWS, hidden_states, made
from tests.tiny_models import tiny_folder

EVERY_ROW = tuple(range(len(ROWS)))


def student(architecture="llama", *, whole=False, n_blocks=2, dropout=0.0, noise=0.0, seed=0):
    """A tiny base with an adapter; with ``noise`` one that has learnt something."""
    model = open_plain(tiny_folder(architecture), device="cpu").model
    if not whole:
        truncate(model, n_blocks)
    wrapped = add_adapter(model, LoraSettings(rank=4, dropout=dropout), seed, n_blocks)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.add_(noise * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    return wrapped


def step(model, targets, rows=EVERY_ROW):
    return targets.step(model, targets.batch(rows))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("where", ["answer", "predicting"])
@pytest.mark.parametrize("alpha", [5.0, 1, -0.5])
def test_an_adapter_that_has_learnt_nothing_is_as_far_from_the_target_as_alpha_v_is_long(architecture, where, alpha):
    differences = made(where=where)
    found = step(student(architecture).train(), FitTargets(differences, alpha, "norm", 0))
    expected = abs(alpha) * differences.values.norm(dim=-1).mean()
    torch.testing.assert_close(found.loss.detach(), expected)
    torch.testing.assert_close(found.relative_error, torch.tensor(1.0))


def test_alpha_zero_and_zero_differences_give_a_loss_of_exactly_zero():
    model = student()
    for targets in (FitTargets(made(), 0, "norm", 0), FitTargets(made(scale=0.0), 5, "mse", 0)):
        found = step(model, targets)
        assert found.loss.item() == 0
        with pytest.raises(RahfError, match="nothing to fit"):
            _ = found.relative_error
        with pytest.raises(RahfError, match="nothing to fit"):
            targets.relative_error(model, 2)


@pytest.mark.parametrize("where", ["answer", "predicting"])
@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama"])
def test_loss_is_that_of_hidden_states_of_the_whole_model_row_by_row(architecture, where):
    differences = made(where=where)
    learnt = student(architecture, noise=0.3)
    whole = student(architecture, whole=True, noise=0.3)
    distances, squares = [], []
    for number, row in enumerate(ROWS):
        with whole.disable_adapter():
            base = hidden_states(architecture, row, whole)
        own = hidden_states(architecture, row, whole)
        first = row.start - (where == "predicting")
        for place in range(len(row.answer)):
            for layer in range(len(POINTS)):
                v = differences.of([number])[place, layer]
                gap = own[layer + 1, first + place] - base[layer + 1, first + place] - 2 * v
                distances.append(gap.norm())
                squares.append(gap.square().mean())
    for loss, wanted in (("norm", distances), ("mse", squares)):
        torch.testing.assert_close(
            step(learnt, FitTargets(differences, 2, loss, 0)).loss.detach(),
            torch.stack(wanted).mean(),
            rtol=1e-4,
            atol=1e-5,
        )


def test_padding_changes_nothing():
    targets = FitTargets(made(), 3, "norm", 0)
    model = student(noise=0.3)
    alone = [step(model, targets, [number]).loss.item() * len(row.answer) for number, row in enumerate(ROWS)]
    together = step(model, targets).loss.item() * sum(len(row.answer) for row in ROWS)
    assert together == pytest.approx(sum(alone), rel=1e-5)
    assert step(model, replace(targets, pad=7)).loss.item() == step(model, targets).loss.item()


@pytest.mark.parametrize("order", [EVERY_ROW, (4, 1, 2), (3,)])
def test_a_base_that_was_read_once_gives_the_same_loss_and_gradients(order):
    each_time = FitTargets(made(where="predicting"), 2, "norm", 0)
    model = student(noise=0.3)
    results = []
    for targets in (each_time, each_time.with_base(model, batch_size=2)):
        model.zero_grad()
        found = step(model, targets, order)
        found.loss.backward()
        results.append((found.loss.detach(), [p.grad.clone() for p in model.parameters() if p.requires_grad]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_what_reading_the_base_once_takes_is_known_beforehand():
    targets = FitTargets(made(), 2, "norm", 0)
    kept = targets.with_base(student(), 2).base
    assert sum(piece.numel() * piece.element_size() for piece in kept) == targets.base_bytes


def test_relative_error_over_all_rows_is_a_mean_over_tokens_whatever_the_batches():
    targets = FitTargets(made(), 2, "mse", 0)
    model = student(noise=0.3)
    found = step(model, targets)
    for batch_size in (1, 2, 5):
        assert targets.relative_error(model, batch_size) == pytest.approx(float(found.relative_error), rel=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_blocks_above_the_last_point_get_no_adapter_and_one_forced_there_no_gradient(architecture):
    targets = FitTargets(made(), 2, "norm", 0)
    small = student(architecture)
    assert len(blocks(small)) == 2
    forced = student(architecture, whole=True, n_blocks=4)
    step(forced, targets).loss.backward()
    for number, block in enumerate(blocks(forced)):
        gradients = [p.grad for name, p in block.named_parameters() if "lora_B" in name]
        assert gradients
        learns = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        assert all(learns) if number < 2 else not any(learns)


def test_only_the_adapters_dropout_is_on_in_training():
    model = student("gpt2", dropout=0.5, noise=0.3)
    dropouts = {name: module for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    own = {name for name in dropouts if "lora_dropout" in name}
    assert own
    assert own != set(dropouts)
    only_adapter_dropout(model)
    assert {name for name, module in dropouts.items() if module.training} == own
    assert model.training


def test_dropout_of_the_adapter_neither_touches_the_base_nor_outlasts_an_evaluation():
    model = student("gpt2", dropout=0.5, noise=0.3).train()
    targets = FitTargets(made(), 2, "norm", 0)
    assert step(model, targets).loss.item() != step(model, targets).loss.item()
    modes = [module.training for module in model.modules()]
    assert targets.relative_error(model, 2) == targets.relative_error(model, 2)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("alpha", [math.nan, math.inf, True])
def test_a_strength_that_is_no_number_is_refused(alpha):
    with pytest.raises(RahfError, match="finite"):
        FitTargets(made(), alpha, "norm", 0)


@pytest.mark.parametrize(("known", "passes"), [(False, 2), (True, 1)])
def test_the_objective_counts_every_pass(known, passes):
    targets = FitTargets(made(), 2, "norm", 0)
    objective = (targets.with_base(student(), 2) if known else targets).objective()
    assert objective.tokens == tuple(passes * len(row.ids) for row in ROWS)
    assert objective.n_blocks == 2
