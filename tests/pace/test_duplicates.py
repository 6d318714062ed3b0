"""Duplicates against a loop over all cosines."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrans_lens.errors import PaceError
from contrans_lens.pace import duplicates as room
from contrans_lens.pace.duplicates import Dropped, find_duplicates
from tests.pace.dictionaries import unit_rows


def brute_force(names, atoms, limit):
    """Kept rows, and for each other one (row, kept row, hook point)."""
    cosines = {}
    for hook_point, rows in atoms.items():
        rows = rows.double().numpy()
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines[hook_point] = rows @ rows.T
    kept, dropped = [], []
    for row, name in enumerate(names):
        for other in kept:
            same = name.strip().casefold() == names[other].strip().casefold()
            where = [hook for hook, values in cosines.items() if min(abs(values[row, other]), 1) > limit]
            if same or where:
                dropped.append((row, other, "" if same else where[0]))
                break
        else:
            kept.append(row)
    return kept, dropped


def clustered(n, width, seed, spread):
    """Atoms around few centres, with either sign, so that near ones come in chains."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(2, n // 4), width, generator=generator)
    chosen = torch.randint(len(centres), (n,), generator=generator)
    sign = torch.randint(2, (n, 1), generator=generator) * 2 - 1
    rows = sign * (centres[chosen] + spread * torch.randn(n, width, generator=generator))
    return rows / rows.norm(dim=1, keepdim=True)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 40),
    width=st.sampled_from([2, 3, 16]),
    spread=st.sampled_from([0.0, 0.01, 0.05, 0.3]),
    limit=st.sampled_from([0.5, 0.9, 0.99, 0.999, 1.0]),
    block=st.sampled_from([1, 3, 512]),
    dense=st.sampled_from([0.0, 0.02, 1.0]),
    n_names=st.integers(1, 60),
)
@settings(max_examples=150, deadline=None)
def test_duplicates_are_those_of_brute_force(seed, n, width, spread, limit, block, dense, n_names):
    atoms = {"first": clustered(n, width, seed, spread), "second": clustered(n, width, seed + 1, 3 * spread)}
    drawn = np.random.default_rng(seed).integers(0, n_names, n)
    names = [f"C {number}" if row % 2 else f" c {number} " for row, number in enumerate(drawn)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_BLOCK", block)
        patch.setattr(room, "_DENSE", dense)
        patch.setattr(room, "_SCREEN", 2)
        found = find_duplicates(names, atoms, limit)
    kept, dropped = brute_force(names, atoms, limit)
    assert found.kept.tolist() == kept
    assert [(record.name, record.of, record.hook_point) for record in found.dropped] == [
        (names[row], names[other], hook_point) for row, other, hook_point in dropped
    ]
    for record, (row, other, hook_point) in zip(found.dropped, dropped, strict=True):
        if hook_point:
            expected = float(atoms[hook_point][row].double() @ atoms[hook_point][other].double())
            assert record.cosine == pytest.approx(expected, abs=1e-6)
        else:
            assert record.cosine is None


def test_wide_atoms_go_through_the_screen():
    """More dimensions than the screen has, and more atoms than a block."""
    atoms = unit_rows(1500, 300)
    atoms[700] = atoms[3] + 1e-3 * atoms[4]
    atoms[1400] = -atoms[3] + 1e-3 * atoms[5]
    atoms[1450] = atoms[1449]
    found = find_duplicates([str(row) for row in range(1500)], {"hook": atoms})
    assert [(record.name, record.of) for record in found.dropped] == [("700", "3"), ("1400", "3"), ("1450", "1449")]
    assert np.sign([record.cosine for record in found.dropped]).tolist() == [1, -1, 1]


def test_of_a_chain_only_the_middle_one_goes():
    def at(angle):
        return [np.cos(angle), np.sin(angle)]

    step = 0.8 * np.arccos(0.999)
    atoms = torch.tensor([at(0), at(step), at(2 * step), at(3 * step)], dtype=torch.float64)
    found = find_duplicates(["a", "b", "c", "d"], {"hook": atoms})
    assert found.kept.tolist() == [0, 2]
    assert [(record.name, record.of) for record in found.dropped] == [("b", "a"), ("d", "c")]
    assert found.dropped[0].cosine == pytest.approx(np.cos(step))


def test_one_hook_point_is_enough():
    first, second = unit_rows(3, 8, 1), unit_rows(3, 8, 2)
    second[2] = second[0]
    found = find_duplicates(["a", "b", "c"], {"first": first, "second": second})
    assert found.dropped == (Dropped("c", "a", found.dropped[0].cosine, "second"),)


def test_many_equal_atoms_are_no_burden():
    found = find_duplicates([str(row) for row in range(3000)], {"hook": unit_rows(1, 64).repeat(3000, 1)})
    assert found.kept.tolist() == [0]
    assert len(found.dropped) == 2999


@pytest.mark.parametrize("limit", [0, -0.5, 1.1, float("nan")])
def test_a_limit_out_of_range_is_refused(limit):
    with pytest.raises(PaceError, match="cosine limit"):
        find_duplicates(["a"], {"hook": unit_rows(1, 4)}, limit)


def test_names_and_atoms_must_fit():
    with pytest.raises(PaceError, match="2 atoms at hook for 1 names"):
        find_duplicates(["a"], {"hook": unit_rows(2, 4)})
