"""Command line of the testbed: `python -m contrans_lens.testbed train --out DIR [--jobs 2] [--install]`."""

import argparse
import logging
import sys
from pathlib import Path

from contrans_lens.errors import TestbedError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0, or 1 if no seed of a target passed its gates.
    """
    parser = argparse.ArgumentParser(prog="python -m contrans_lens.testbed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train the family from nothing, or go on with a killed run")
    train.add_argument("--out", type=Path, required=True, help="folder for the models and runs")
    train.add_argument("--jobs", type=int, default=2, help="training processes at a time, one thread each")
    train.add_argument("--install", action="store_true", help="copy the finished models into the package")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # Imported here: `--help` needs no torch.
    from contrans_lens.testbed.build import build, install

    try:
        build(options.out, options.jobs)
    except TestbedError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    if options.install:
        install(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
