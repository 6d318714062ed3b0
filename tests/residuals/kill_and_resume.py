"""Run as a program by test_store.py: kills captures with SIGKILL at random moments, resumes, compares bytes.

The model is opened once; each capture that is to be killed runs in a forked child (one thread, so forking is safe).
Prints a JSON object with how far each killed child had come and whether the folders are equal.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from contrans_lens.residuals import capture, writer
from tests.tiny_models import TEXTS, open_tiny

N_KILLS = 6


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def n_finished(folder: Path) -> int:
    return len(list(folder.glob("shard-*.safetensors")))


def main(root: Path) -> None:
    torch.set_num_threads(1)
    writer.SHARD_BYTES = 4096
    model = open_tiny("gpt2", "bridge")
    texts = [f"{text} {number}" for number in range(24) for text in TEXTS]

    def run(folder: Path) -> None:
        capture(model, texts, store=folder, batch_size=2)

    run(root / "warm")
    begin = time.monotonic()
    run(root / "whole")
    seconds = time.monotonic() - begin
    draw = random.Random(int(sys.argv[2]))
    n_shards = len(contents(root / "whole")) - 1
    progress = [0]
    for _ in range(N_KILLS):
        child = os.fork()
        if child == 0:
            run(root / "killed")
            os._exit(0)
        # By progress and then at a random moment of the next shard, not by the clock alone: a busy machine would
        # otherwise see every kill fall before the first shard.
        wanted = min(progress[-1] + draw.randint(0, 2), n_shards - 1)
        while n_finished(root / "killed") < wanted and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 1.5) * seconds / n_shards)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        progress.append(n_finished(root / "killed"))
    run(root / "killed")
    whole, killed = contents(root / "whole"), contents(root / "killed")
    sys.stdout.write(
        json.dumps({"progress": progress, "n_shards": n_shards, "same": whole == killed, "names": list(killed)})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
