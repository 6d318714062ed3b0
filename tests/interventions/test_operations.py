import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrans_lens.errors import InterventionError
from contrans_lens.interventions import Intervention
from contrans_lens.interventions.operations import AddVector, MoveComponent, move_component

HOOK = "blocks.0.hook_resid_post"


def test_add_in_units_of_the_residual_norm_is_strength_times_norm_times_direction():
    steering = Intervention(HOOK, torch.tensor([3.0, 4.0]), strength=0.5, residual_norm=10.0)
    assert torch.equal(
        steering.compile()(torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])), torch.tensor([[[4.0, 5.0], [3.0, 4.0]]])
    )


def test_add_in_absolute_units_is_strength_times_vector():
    steering = Intervention(HOOK, torch.tensor([3.0, 4.0]), strength=-2.0, unit="absolute")
    assert torch.equal(steering.compile()(torch.zeros(1, 1, 2)), torch.tensor([[[-6.0, -8.0]]]))


def test_project_out_removes_the_component_and_nothing_else():
    steering = Intervention(HOOK, torch.tensor([0.0, 2.0, 0.0]), "project_out")
    assert torch.equal(steering.compile()(torch.tensor([[[5.0, 7.0, -1.0]]])), torch.tensor([[[5.0, 0.0, -1.0]]]))


def test_project_out_at_half_strength_halves_the_component():
    steering = Intervention(HOOK, torch.tensor([0.0, 2.0]), "project_out", strength=0.5)
    assert torch.equal(steering.compile()(torch.tensor([[[5.0, 8.0]]])), torch.tensor([[[5.0, 4.0]]]))


@pytest.mark.parametrize(("unit", "norm", "expected"), [("absolute", None, 2.0), ("residual_norm", 8.0, 16.0)])
def test_clamp_sets_the_component_in_the_chosen_unit(unit, norm, expected):
    steering = Intervention(HOOK, torch.tensor([0.0, 3.0]), "clamp", value=2.0, unit=unit, residual_norm=norm)
    activation = torch.tensor([[[5.0, -8.0], [1.0, 100.0]]])
    assert torch.equal(steering.compile()(activation), torch.tensor([[[5.0, expected], [1.0, expected]]]))


@pytest.mark.parametrize("op", ["add", "project_out", "clamp"])
def test_the_activation_itself_is_never_changed(op):
    steering = Intervention(HOOK, torch.randn(4), op, unit="absolute", value=1.0 if op == "clamp" else None)
    activation = torch.randn(2, 3, 4)
    before = activation.clone()
    assert not torch.equal(steering.compile()(activation), before)
    assert torch.equal(activation, before)


@given(st.integers(0, 10_000), st.floats(-3, 3), st.floats(-5, 5))
def test_a_moved_component_agrees_with_linear_algebra_in_float64(seed, strength, target):
    generator = torch.Generator().manual_seed(seed)
    activation = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    direction = torch.nn.functional.normalize(torch.randn(5, generator=generator, dtype=torch.float64), dim=0)
    moved = move_component(activation, direction, target, strength)
    projector = torch.outer(direction, direction)
    expected = activation - strength * activation @ projector + strength * target * direction
    torch.testing.assert_close(moved, expected, atol=1e-12, rtol=0)


def test_the_component_of_a_bfloat16_activation_is_summed_in_float32():
    generator = torch.Generator().manual_seed(0)
    activation = torch.randn(4, 8, 512, generator=generator).to(torch.bfloat16)
    direction = torch.randn(512, generator=generator)
    out = MoveComponent(direction / direction.norm(), 0.0, 1.0)(activation)
    assert out.dtype == torch.bfloat16
    exact = Intervention(HOOK, direction, "project_out").compile()(activation.double())
    # Half a unit in the last place of each entry: the result is the exact one, rounded once.
    assert ((out.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


def test_an_added_vector_is_converted_once_for_each_dtype():
    operation = AddVector(torch.ones(3, dtype=torch.float64))
    assert operation(torch.zeros(1, 1, 3)).dtype == torch.float32
    first = operation._ready
    operation(torch.zeros(2, 5, 3))
    assert operation._ready is first
    assert operation(torch.zeros(1, 1, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 2, 4), (3, 4)])
@pytest.mark.parametrize("op", ["add", "project_out"])
def test_a_vector_never_broadcasts_onto_another_kind_of_activation(shape, op):
    with pytest.raises(InterventionError, match="width 4"):
        Intervention(HOOK, torch.ones(4), op, unit="absolute").compile()(torch.zeros(shape))
