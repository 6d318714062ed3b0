"""Several processes of one run, as accelerate's launcher starts them: who does what is done once, and who waits.

Trainings share their work among all processes. Everything else is done by the main process while the others wait, and
what it made is read from disk.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch

from contrans_lens.errors import ContransLensError

_LONGEST_WAIT = timedelta(days=7)  # reading the activity of a large model takes hours, after which others may give up


@dataclass(frozen=True)
class Processes:
    """How many processes run this, and which of them this one is."""

    count: int = 1
    rank: int = 0

    @classmethod
    def in_environment(cls) -> "Processes":
        """As the launcher's environment says; nothing is set up."""
        return cls(int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0")))

    @classmethod
    def here(cls, device: str | torch.device | None = None) -> "Processes":
        """As the launcher's environment says; several are made to know of each other.

        Args:
            device: where models run; None: CUDA if there is one, else the CPU.
        """
        found = cls.in_environment()
        if found.count > 1:
            from accelerate import PartialState

            wanted = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
            PartialState(cpu=torch.device(wanted).type == "cpu", timeout=_LONGEST_WAIT)
        return found

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def once(self, work: Callable[[], object]) -> None:
        """Let the main process do something while the others wait.

        Raises:
            ContransLensError: what the work refuses, in the main process, which has to say it.
            SystemExit: in the others, where the main process refuses.
        """
        if self.count == 1:
            work()
            return
        from accelerate.utils import broadcast_object_list

        refusal: ContransLensError | None = None
        if self.is_main:
            try:
                work()
            except ContransLensError as error:
                refusal = error
        # What was found must be told before it is raised: a process that is left alone ends in an error of its own.
        [refused] = broadcast_object_list([refusal is not None])
        if refusal is not None:
            raise refusal
        if refused:
            raise SystemExit(1)
