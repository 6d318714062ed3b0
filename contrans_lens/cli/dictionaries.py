"""Commands for concept dictionaries: ``dictionary build | show | search``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contrans_lens.cli import console
from contrans_lens.cli.console import Progress, print_json, print_text
from contrans_lens.cli.options import (
    Alpha,
    AtomHookPoints,
    Device,
    DictionaryFolder,
    Json,
    Kind,
    OmpK,
    Out,
    ProcessWeights,
    Seed,
    Tau,
)
from contrans_lens.errors import PaceError
from contrans_lens.tables import decompositions_table, dictionary_tables, neighbours_table

if TYPE_CHECKING:
    from contrans_lens.models import HookedModel
    from contrans_lens.pace.decomposition import Decomposition
    from contrans_lens.pace.dictionary import ConceptDictionary
    from contrans_lens.pace.retrieval import Neighbours
    from contrans_lens.pipeline.dictionary_inputs import Stimuli

_WEAKEST = 5  # concepts of the lowest quality that are shown

OptionalModel = Annotated[str | None, typer.Option("--model", help="hub name, local folder, or embedded:NAME")]


def build(
    out: Out,
    model: OptionalModel = None,
    stimuli: Annotated[str | None, typer.Option(help="concepts with their stimuli: jsonl, or embedded:world")] = None,
    concepts: Annotated[
        Path | None, typer.Option(help="a plain list of concepts, whose stimuli are made; needs --frame")
    ] = None,
    frame: Annotated[
        str | None, typer.Option(help="what the concepts of the list are: quality, thing, emotion, act or topic")
    ] = None,
    sentences: Annotated[int, typer.Option(min=2, help="made for each concept of the list")] = 30,
    external: Annotated[
        Path | None, typer.Option(help="atoms of others, .safetensors, .npy or .npz; needs --names and --hook-point")
    ] = None,
    names: Annotated[Path | None, typer.Option(help="names of the external atoms: .txt, .json, .jsonl or .csv")] = None,
    tensor: Annotated[str | None, typer.Option(help="which tensor of the external file")] = None,
    transposed: Annotated[
        bool | None,
        typer.Option("--columns/--rows", help="whether external atoms are columns or rows; default: by the names"),
    ] = None,
    drop_unusable: Annotated[
        bool, typer.Option("--drop-unusable", help="leave out external atoms that are zero or not finite")
    ] = False,
    hook_point: Annotated[
        list[str] | None, typer.Option("--hook-point", help="where to read; default: the middle blocks, as the paper")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="prompt with {stimulus} and perhaps {concept}; \\n is a line break")
    ] = None,
    others: Annotated[int, typer.Option(min=1, help="stimuli of other concepts each one is compared with")] = 60,
    cosine_limit: Annotated[float, typer.Option(help="atoms with a greater |cos| are duplicates")] = 0.999,
    store: Annotated[
        Path | None, typer.Option(help="folder for residuals: an interrupted build goes on from there")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="prompts in one pass; default: by memory")] = None,
    seed: Seed = 0,
    kind: Kind = "auto",
    process_weights: ProcessWeights = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Build a concept dictionary: from stimuli, from a list of concepts, or from atoms of others."""
    from contrans_lens.artifacts import require_kind, require_writable
    from contrans_lens.pace.build import build_dictionary
    from contrans_lens.pace.saving import KIND
    from contrans_lens.pipeline.dictionary_inputs import external_reference

    _one_source(stimuli, concepts, external)
    require_writable(out)
    require_kind(out, KIND)
    foreign = external_reference(
        external, names, hook_point or (), tensor=tensor, transposed=transposed, drop_unusable=drop_unusable
    )
    given = _stimuli(stimuli, concepts, frame, template, sentences, seed)
    with Progress(as_json) as say:
        opened = None if model is None else _opened(model, kind, process_weights, device, say)
        if foreign is not None:
            say(f"reading {external}")
            dictionary = foreign.read(opened, cosine_limit)
        elif given is not None and opened is not None:
            say(f"reading {sum(len(each.stimuli) for each in given.concepts):,} stimuli")
            dictionary = build_dictionary(
                opened,
                given.concepts,
                hook_point or None,
                template=given.template,
                others_per_concept=others,
                seed=seed,
                batch_size=batch_size,
                cosine_limit=cosine_limit,
                store=store,
            )
        else:
            raise PaceError("--model says in which model stimuli are read; only --external can do without one.")
        say("writing")
        dictionary.save(out)
    if as_json:
        print_json(described(dictionary))
        return
    console.out.print(dictionary_tables(described(dictionary)))
    if dictionary.fingerprint is None:
        print_text("No --model was given: this dictionary can be searched, but not be used with a model.")
    print_text(f"dictionary: {out}")


def show(folder: DictionaryFolder, as_json: Json = False) -> None:
    """Show a dictionary: concepts by topic, quality, and the duplicates that were left out."""
    print_dictionary(folder, as_json=as_json)


def search(
    folder: DictionaryFolder,
    query: Annotated[list[str] | None, typer.Argument(help="names of concepts")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="decompose the last token of this text; several times; needs --model")
    ] = None,
    model: OptionalModel = None,
    hook_point: AtomHookPoints = None,
    most: Annotated[int, typer.Option(min=1, help="at most so many concepts are shown for each query")] = 10,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="by |cos|: opposites are near, too")] = False,
    solver: Annotated[str, typer.Option(help="of texts: elastic-net or omp")] = "elastic-net",
    alpha: Alpha = None,
    tau: Tau = None,
    k: OmpK = None,
    kind: Kind = "auto",
    process_weights: ProcessWeights = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Search a dictionary: the concepts nearest to a concept, or those that a text's last token is made of."""
    from contrans_lens.pace.decomposition import decompose_texts
    from contrans_lens.pace.dictionary import ConceptDictionary
    from contrans_lens.pace.retrieval import nearest
    from contrans_lens.pipeline.pace_inputs import solver_reference

    if not query and not text:
        raise PaceError("nothing is searched for: name concepts, or give --text with --model.")
    if text and model is None:
        raise PaceError("--text is read in a model; give it with --model.")
    chosen = solver_reference(solver, alpha=alpha, tau=tau, k=k)
    dictionary = ConceptDictionary.open(folder)
    points = hook_point or [dictionary.hook_points[len(dictionary.hook_points) // 2]]
    neighbours = {
        name: [nearest(dictionary, name, point, most, signed=not unsigned)[0] for point in points]
        for name in query or ()
    }
    decompositions: dict[str, Decomposition] = {}
    if text and model is not None:
        with Progress(as_json) as say:
            opened = _opened(model, kind, process_weights, device, say)
            say("decomposing")
            decompositions = decompose_texts(opened, text, dictionary, points, solver=chosen)
    found = _found(neighbours, decompositions, most)
    if as_json:
        print_json(found)
        return
    if neighbours:
        console.out.print(neighbours_table(found))
    if decompositions:
        console.out.print(decompositions_table(found))


def print_dictionary(folder: Path, *, as_json: bool) -> None:
    """Open a dictionary, read all of it, and print what it is."""
    from contrans_lens.pace.dictionary import ConceptDictionary

    found = described(ConceptDictionary.open(folder))
    if as_json:
        print_json(found)
        return
    console.out.print(dictionary_tables(found))


def described(dictionary: "ConceptDictionary") -> dict[str, Any]:
    """A dictionary as JSON values, without its atoms."""
    frame = dictionary.to_frame()
    measured = dictionary.quality is not None
    frame["quality"] = frame["quality"].astype(object).where(frame["quality"].notna(), None)
    topics = [
        {"topic": topic, "concepts": list(part["name"]), "quality": float(part["quality"].mean()) if measured else None}
        for topic, part in frame.groupby("topic", sort=False)
    ]
    weakest = frame.sort_values("quality", kind="stable").head(_WEAKEST) if measured else frame.head(0)
    return {
        "kind": "concept_dictionary",
        "model": None if dictionary.fingerprint is None else dictionary.fingerprint.to_dict(),
        "n_atoms": dictionary.n_atoms,
        "d_model": dictionary.d_model,
        "hook_points": list(dictionary.hook_points),
        "template": dictionary.template,
        "digest": dictionary.digest,
        "quality": None if dictionary.quality is None else dictionary.quality.mean(0).tolist(),
        "topics": topics,
        "weakest": weakest.to_dict("records"),
        "dropped": [record.to_dict() for record in dictionary.dropped],
        "notes": dict(dictionary.notes),
    }


def _one_source(stimuli: str | None, concepts: Path | None, external: Path | None) -> None:
    sources = {"--stimuli": stimuli, "--concepts": concepts, "--external": external}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        raise PaceError(f"{' and '.join(given) or 'nothing'} to build from; give one of {', '.join(sources)}.")


def _stimuli(
    stimuli: str | None, concepts: Path | None, frame: str | None, template: str | None, sentences: int, seed: int
) -> "Stimuli | None":
    from contrans_lens.pipeline.dictionary_inputs import framed_stimuli, stimuli_reference

    if concepts is None and frame is not None:
        raise PaceError("--frame says what the concepts of a list are; give it with --concepts FILE.")
    if stimuli is not None:
        return stimuli_reference(stimuli, template, seed=seed)
    return None if concepts is None else framed_stimuli(concepts, frame, template, n=sentences, seed=seed)


def _opened(model: str, kind: str, process_weights: bool, device: str | None, say: Progress) -> "HookedModel":
    from contrans_lens.models import open_model
    from contrans_lens.pipeline import inputs

    reference = inputs.model_reference(model)
    say(f"opening {model}")
    return open_model(reference, kind=inputs.model_kind(kind), process_weights=process_weights, device=device)


def _found(
    neighbours: "dict[str, list[Neighbours]]", decompositions: "dict[str, Decomposition]", most: int
) -> dict[str, Any]:
    """Search results as JSON values."""
    return {
        "neighbours": [
            {
                "query": query,
                "hook_point": each.hook_point,
                "concepts": [{"concept": name, "cosine": cosine} for name, cosine in each],
            }
            for query, found in neighbours.items()
            for each in found
        ],
        "texts": [
            {
                "text": text,
                "hook_point": point,
                "explained": float(each.explained[row]),
                "n_concepts": int(each.codes.counts()[row]),
                "concepts": [{"concept": name, "coefficient": value} for name, value in each.row(row, most)],
            }
            for point, each in decompositions.items()
            for row, text in enumerate(each.texts)
        ],
    }
