from dataclasses import dataclass, field

import pytest
import torch
from matplotlib.colors import to_hex

from contrans_lens.errors import RahfError
from contrans_lens.rahf.norms import DifferenceNorms
from contrans_lens.reports.html import png_bytes
from contrans_lens.reports.rahf_figures import curves_figure, norms_figure
from tests.rahf.small_contrasts import Given


@dataclass
class Curve:
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    columns: dict[str, tuple[float, ...]] = field(default_factory=dict)


def norms(groups: tuple[str, ...] = ("a", "b", "c", "d")) -> DifferenceNorms:
    tensor = torch.randn(9, 2, 6, generator=torch.Generator().manual_seed(0))
    return Given(tensor, [3, 2, 3, 1], groups, residual_norms=torch.tensor([2.0, 5.0])).norms(n_resamples=200)


def test_the_map_holds_the_norm_of_every_layer_and_token():
    found = norms()
    figure = norms_figure(found)
    heat, lines, layers = figure.axes[:3]
    assert heat.images[0].get_array().tolist() == [pytest.approx(row) for row in found.offsets]
    assert [label.get_text() for label in heat.get_yticklabels()] == ["0", "1"]
    assert heat.get_ylabel() == "block (resid_post)"
    assert heat.get_xlabel() == "token of the answer"
    assert [line.get_ydata().tolist() for line in lines.lines] == [pytest.approx(row) for row in found.offsets]
    assert "4 answers, 2 at the last" in lines.get_title()
    assert layers.lines[0].get_ydata().tolist() == pytest.approx(found.layers)
    band = layers.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(max(each.high for each in found.layer_intervals))
    assert band.min() == pytest.approx(min(each.low for each in found.layer_intervals))


def test_relative_norms_say_so_and_one_group_has_no_bands():
    assert "residual norm" in norms_figure(norms().relative()).axes[0].get_title()
    assert "residual norm" not in norms_figure(norms()).axes[0].get_title()
    alone = norms_figure(norms(("a",) * 4))
    assert not any(axis.collections for axis in alone.axes[1:3])
    assert all(axis.collections for axis in norms_figure(norms()).axes[1:3])
    assert png_bytes(alone)


def test_equal_norms_give_equal_pictures():
    assert png_bytes(norms_figure(norms())) == png_bytes(norms_figure(norms()))


def test_every_training_has_one_colour_in_all_panels():
    curves = {
        "SCIT": Curve((0, 10), (2.0, 1.0), {"contrast": (0.7, 0.4)}),
        "$good$": Curve((0, 5, 10), (3.0, 2.0, 1.5)),
        "fit": Curve((0, 10), (5.0, 4.0), {"relative_error": (1.0, 0.5), "contrast": (0.1, 0.2)}),
    }
    figure = curves_figure(curves)
    loss, contrast, error = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["loss", "contrast", "relative error"]
    assert [line.get_label() for line in loss.lines] == ["SCIT", r"\$good\$", "fit"]
    assert [line.get_ydata().tolist() for line in loss.lines] == [list(curve.losses) for curve in curves.values()]
    assert [line.get_label() for line in contrast.lines] == ["SCIT", "fit"]
    assert error.lines[0].get_ydata().tolist() == [1.0, 0.5]
    colours = {line.get_label(): to_hex(line.get_color()) for line in loss.lines}
    assert len(set(colours.values())) == 3
    for axis in (contrast, error):
        for line in axis.lines:
            assert to_hex(line.get_color()) == colours[line.get_label()]
    assert png_bytes(figure)


def test_no_curves_are_refused():
    with pytest.raises(RahfError, match="no curves"):
        curves_figure({})
