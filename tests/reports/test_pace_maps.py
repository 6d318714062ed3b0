import pytest
import torch

from contrans_lens.errors import HookPointError, PaceError
from contrans_lens.pace.layout import layout
from contrans_lens.reports import atom_similarity_figure, dictionary_map_figure
from contrans_lens.reports.html import png_bytes
from tests.reports.pace_runs import POINTS, dictionary


def test_the_map_puts_every_concept_at_its_place_by_topic():
    atoms = dictionary()
    places = layout(atoms, POINTS[0])
    figure = dictionary_map_figure(atoms, POINTS[0])
    [axis] = figure.axes
    drawn = {line.get_label(): torch.tensor(line.get_xydata()).float() for line in axis.lines}
    assert set(drawn) == {"unkindness", "kindness", "things", "other"}
    torch.testing.assert_close(drawn["unkindness"], places.coordinates[[0, 1]])
    torch.testing.assert_close(drawn["other"], places.coordinates[[3]])  # it has no topic
    assert f"{places.share:.0%} of the variance" in axis.get_title()
    assert {text.get_text() for text in axis.texts} <= set(atoms.names)
    assert len(figure.legends[0].get_texts()) == 4


def test_few_names_are_shown_and_none_covers_another():
    atoms = dictionary(200)
    [axis] = dictionary_map_figure(atoms, POINTS[0], labels=10).axes
    assert len(axis.texts) <= 10
    coordinates = layout(atoms, POINTS[0]).coordinates
    scaled = coordinates / (coordinates.amax(0) - coordinates.amin(0))
    named = [atoms.names.index(text.get_text()) for text in axis.texts]
    for place, row in enumerate(named):
        for other in named[:place]:
            across, up = (scaled[row] - scaled[other]).abs().tolist()
            assert across > 0.1 or up > 0.02
    assert not dictionary_map_figure(atoms, POINTS[0], labels=0).axes[0].texts


def test_clusters_are_named_after_their_middle_and_the_many_groups_of_a_large_dictionary_are_told_apart():
    atoms = dictionary(60)
    [axis] = dictionary_map_figure(atoms, POINTS[1], by="cluster", n_clusters=3, method="mds").axes
    assert len(axis.lines) == 3
    assert {line.get_label() for line in axis.lines} <= set(atoms.names)
    assert sum(len(line.get_xdata()) for line in axis.lines) == 60
    [axis] = dictionary_map_figure(atoms, POINTS[1], by="cluster", n_clusters=50).axes
    looks = [(line.get_color(), line.get_marker()) for line in axis.lines]
    assert len(set(looks)) == len(looks)
    assert sum(len(line.get_xdata()) for line in axis.lines) == 60


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(PaceError, match="topic"):
        dictionary_map_figure(dictionary(), POINTS[0], by="size")
    with pytest.raises(HookPointError):
        dictionary_map_figure(dictionary(), "blocks.9.hook_resid_post")
    with pytest.raises(PaceError):
        dictionary_map_figure(dictionary(1), POINTS[0])


@pytest.mark.parametrize("signed", [True, False])
def test_the_table_of_cosines_is_ordered_by_topic(signed):
    atoms = dictionary(13)
    axis = atom_similarity_figure(atoms, POINTS[0], signed=signed).axes[0]
    rows = atoms.at(POINTS[0])
    topics = list(dict.fromkeys(atoms.topics))
    order = [row for topic in topics for row in range(13) if atoms.topics[row] == topic]
    expected = rows[order] @ rows[order].T
    found = torch.tensor(axis.images[0].get_array()).float()
    torch.testing.assert_close(found, expected if signed else expected.abs(), atol=1e-5, rtol=0)
    assert [label.get_text() for label in axis.get_yticklabels()] == [topic or "(no topic)" for topic in topics]


def test_names_and_topics_with_signs_of_formulas_are_drawn():
    plain = dictionary()
    names = ("$\\a$", *plain.names[1:])
    strange = type(plain)(names, ("$\\frac{$", *plain.topics[1:]), plain.hook_points, plain.atoms)
    assert png_bytes(dictionary_map_figure(strange, POINTS[0]))
    assert png_bytes(atom_similarity_figure(strange, POINTS[0]))
