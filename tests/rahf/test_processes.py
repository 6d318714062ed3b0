import accelerate.utils
import pytest

from contrans_lens.errors import RahfError
from contrans_lens.rahf.processes import Processes


def test_one_process_does_everything_and_waits_for_nobody():
    done = []
    here = Processes.here("cpu")
    here.once(lambda: done.append(1))
    assert (here, here.is_main, done) == (Processes(1, 0), True, [1])


def test_the_launchers_environment_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    found = Processes.in_environment()
    assert (found.count, found.rank, found.is_main) == (4, 2, False)


def broadcasting(monkeypatch: pytest.MonkeyPatch, *sent: bool) -> list[bool]:
    """What the main process has told the others, who hear ``sent``."""
    told: list[bool] = []

    def broadcast(values: list[bool]) -> list[bool]:
        told.extend(values)
        return list(sent) or values

    monkeypatch.setattr(accelerate.utils, "broadcast_object_list", broadcast)
    return told


def refuse() -> None:
    raise RahfError("no.")


def test_others_leave_the_work_to_the_main_process(monkeypatch: pytest.MonkeyPatch):
    told = broadcasting(monkeypatch)
    done: list[int] = []
    for rank in (0, 1):
        Processes(2, rank).once(lambda rank=rank: done.append(rank))
    assert done == [0]
    assert told == [False] * 2


def test_where_the_main_process_refuses_it_says_why_and_others_end_in_silence(monkeypatch: pytest.MonkeyPatch):
    told = broadcasting(monkeypatch)
    with pytest.raises(RahfError, match="no"):
        Processes(2, 0).once(refuse)
    assert told == [True]  # before the error is raised
    broadcasting(monkeypatch, True)
    with pytest.raises(SystemExit) as caught:
        Processes(2, 1).once(refuse)
    assert caught.value.code == 1
