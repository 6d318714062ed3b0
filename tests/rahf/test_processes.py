import pytest

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


def test_others_leave_the_work_to_the_main_process(monkeypatch: pytest.MonkeyPatch):
    import accelerate

    waited: list[str] = []

    class State:
        def wait_for_everyone(self) -> None:
            waited.append("waited")

    monkeypatch.setattr(accelerate, "PartialState", State)
    done: list[int] = []
    for rank in (0, 1):
        Processes(2, rank).once(lambda rank=rank: done.append(rank))
    assert done == [0]
    assert waited == ["waited"] * 2
