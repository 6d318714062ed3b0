import pytest

from contrans_lens.errors import RahfError
from contrans_lens.rahf.objective import Objective
from tests.rahf.small_training import nll_loss, objective


def test_an_objective_has_examples() -> None:
    with pytest.raises(RahfError, match="no examples"):
        Objective((), 1, list, nll_loss)
    for weights in ((1,), (1, 0)):
        with pytest.raises(RahfError, match="weights were given for 2 examples"):
            Objective((3, 4), 1, list, nll_loss, weights)


def test_tokens_beside_count_in_the_cost_and_weights_in_the_mean() -> None:
    found = Objective((3, 4, 5), 1, list, nll_loss, (1, 2, 3), (10, 20, 30))
    assert found.run_forward([0, 2]) == 48
    assert found.weight([0, 2]) == 4
    assert objective().weight([0, 2]) == 2
