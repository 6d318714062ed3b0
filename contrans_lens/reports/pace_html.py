"""Pages about a run of PaCE: texts side by side, what was removed, damage, the partition, and what to beware of."""

from pathlib import Path

from contrans_lens.pace.cautions import changed_prompts, point_summaries, weak_points
from contrans_lens.pace.run import PaceRun
from contrans_lens.reports.html import encoded, png_bytes, render, write_bytes
from contrans_lens.reports.pace_figures import audit_figure, partition_figure

_BELOW_CUT = 10  # benign concepts listed below the undesirable ones


def write_pace_report(run: PaceRun, folder: Path) -> list[Path]:
    """Write the figures as PNG and ``report.html`` into ``folder``; return the paths.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    images = {"audit": png_bytes(audit_figure(run)), "partition": png_bytes(partition_figure(run.partition))}
    written = [write_bytes(folder / f"{name}.png", image) for name, image in images.items()]
    page = render("pace.html.j2", run=run, body=_body(run, images))
    written.append(write_bytes(folder / "report.html", page.encode()))
    return written


def pace_html(run: PaceRun) -> str:
    """The run as an HTML fragment for a notebook cell: texts, what was removed, damage, and the audit figure."""
    return _body(run, {"audit": png_bytes(audit_figure(run))})


def _body(run: PaceRun, images: dict[str, bytes]) -> str:
    written = {"plain": run.plain, "edited": run.edited}
    written |= {f"control {number}": each for number, each in enumerate(run.controls)}
    frame = run.partition.to_frame().head(len(run.partition.undesirable) + _BELOW_CUT)
    return render(
        "pace_body.html.j2",
        run=run,
        images=encoded(images),
        columns={name: each.texts for name, each in written.items()},
        changed={name: changed_prompts(run, each.texts) for name, each in written.items() if name != "plain"},
        points=point_summaries(run),
        whole=run.removals[0].solver.scope == "dictionary",
        notes=weak_points(run),
        scores=frame.to_dict("records"),
        n_left=len(run.partition.scores) - len(frame),
    )
