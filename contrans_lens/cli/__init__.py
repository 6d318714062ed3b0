"""The command line.

``contrans-lens demo | transplant | layers | sweep | evaluate | dictionary | pace | rahf | generate | show``, where
``dictionary`` has the commands ``build | show | search``.

Exit codes: 0 the command did its work (whatever the verdict), 2 the input cannot be used, 130 interrupted.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from contrans_lens.cli import console, dictionaries
from contrans_lens.cli.preferring import rahf
from contrans_lens.cli.removing import pace
from contrans_lens.cli.showing import generate, show
from contrans_lens.cli.tradeoffs import evaluate, sweep
from contrans_lens.cli.transplanting import demo, layers, transplant
from contrans_lens.errors import ContransLensError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
INTERRUPTED = "contrans-lens: interrupted; nothing was half-written"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Read a concept in one language model, carry it across an affine map, write it into another.",
)


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with its interruption said in one line; typer would leave without a word."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as error:
            console.err.print(INTERRUPTED)
            raise typer.Exit(EXIT_INTERRUPTED) from error

    return run


def _add(to: typer.Typer, commands: Sequence[Callable[..., None]]) -> None:
    for command in commands:
        to.command()(_interruptible(command))


_dictionary = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Build, show and search concept dictionaries."
)
_add(app, (demo, transplant, layers, sweep, evaluate, pace, rahf, generate, show))
_add(_dictionary, (dictionaries.build, dictionaries.show, dictionaries.search))
app.add_typer(_dictionary, name="dictionary")


def main() -> None:
    """Entry point: runs a command and turns our own errors into one line and an exit code."""
    try:
        app()
    except ContransLensError as error:
        console.err.print(f"contrans-lens: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        console.err.print(INTERRUPTED)
        sys.exit(EXIT_INTERRUPTED)
