"""Options that several commands share, written once."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="print the result as JSON on standard output")]
Out = Annotated[Path, typer.Option("--out", help="folder for results; made if absent")]
Seed = Annotated[int, typer.Option(help="seed of splits, draws and bootstraps")]
Model = Annotated[str, typer.Option(help="hub name, local folder, or embedded:NAME")]
Concept = Annotated[str, typer.Option(help="built-in concept, concept file, or embedded:NAME")]
Texts = Annotated[str | None, typer.Option(help="texts to fit the map on: one a line, or jsonl with 'text'")]
Neutral = Annotated[str | None, typer.Option(help="texts to measure damage on; default: held out of --texts")]
Estimator = Annotated[str, typer.Option(help="how the concept is read")]
Budget = Annotated[float, typer.Option(help="damage allowed, nats per token on neutral text")]
Draws = Annotated[int, typer.Option(help="draws of each control")]
ProcessWeights = Annotated[bool, typer.Option(help="fold norms and centre weights on opening")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: TransformerLens' choice")]
Kind = Annotated[str, typer.Option(help="how models are opened: auto, hooked or bridge")]
Interventions = Annotated[
    list[Path] | None,
    typer.Option("--intervention", help="a saved intervention, or the folder of a transplant run; several times"),
]
ReadConcept = Annotated[
    str | None, typer.Option("--concept", help="read this concept in the model: built-in, file, or embedded:NAME")
]
HookPoints = Annotated[
    list[str] | None,
    typer.Option("--hook-point", help="where the concept is written; several are written together"),
]
NormTexts = Annotated[str | None, typer.Option("--texts", help="generic texts for the residual norm, the unit of r")]
Limit = Annotated[int | None, typer.Option(min=2, help="at most so many items of each behaviour")]
NewTokens = Annotated[int, typer.Option(min=1, help="tokens written by behaviours of kind generate")]
DictionaryFolder = Annotated[Path, typer.Argument(help="folder of a concept dictionary")]
AtomHookPoints = Annotated[
    list[str] | None, typer.Option("--hook-point", help="of the dictionary's; several times; default: its middle one")
]
Alpha = Annotated[float | None, typer.Option(help="elastic net: weight of the penalty; default 0.05, the paper's")]
OmpK = Annotated[int | None, typer.Option("--k", help="omp: number of atoms; default 50, the paper's")]
Tau = Annotated[float | None, typer.Option(help="elastic net: share of the l1 penalty; default 0.95, the paper's")]

SPEC = "KIND:PATH, kinds: answers, choices, truthfulqa, mmlu, bbq, stereoset, words, generate (see the README)"
