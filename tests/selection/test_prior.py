import pytest

from contrans_lens.errors import SelectionError
from contrans_lens.models import resid_post
from contrans_lens.selection import three_quarters


@pytest.mark.parametrize(("n_layers", "block"), [(32, 23), (40, 29), (80, 59), (6, 3), (4, 2), (1, 0)])
def test_the_papers_layers(n_layers: int, block: int):
    # 24 of 32 counts blocks from one: the residual after the 24th block is blocks.23.hook_resid_post.
    assert three_quarters([resid_post(i) for i in range(n_layers)]) == resid_post(block)


def test_no_hook_points_are_refused():
    with pytest.raises(SelectionError):
        three_quarters([])
