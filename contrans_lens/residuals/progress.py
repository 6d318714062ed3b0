"""A progress bar with the time left, counted in tokens because long texts take longer."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def token_progress(shown: bool, description: str, n_tokens: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that moves the bar on by so many tokens; it does nothing unless ``shown``."""
    if not shown:
        yield lambda _: None
        return
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(description, total=n_tokens)
        yield lambda tokens: bar.update(task, advance=tokens)
