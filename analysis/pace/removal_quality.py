"""How good are the decompositions: planted recovery, topics, sparsity paths, and coefficients of the wrong sign."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from removal_planted import planted
from removal_setups import UNWANTED, Setup, Sizes, Target, with_dictionary
from torch import Tensor

from contrans_lens.models import open_model
from contrans_lens.pace.decomposition import decompose
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.paths import SparsityPath, sparsity_path
from contrans_lens.pace.solvers.elastic_net import ElasticNet
from contrans_lens.pace.solvers.omp import OMP
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.projection import OrthogonalProjection
from contrans_lens.pace.solvers.solver import Solver
from contrans_lens.pace.topics import topic_separation
from contrans_lens.residuals import capture
from contrans_lens.testbed import map_texts, model_path
from contrans_lens.testbed.stimuli import STIMULI_TEMPLATE, concept_stimuli
from contrans_lens.testbed.variants import untrained

N_ACTIVATIONS, DRAWS = 64, 200
BLOCK = 2
"""A middle block, at which dictionaries are looked at."""
ALPHAS, COUNTS = (0.2, 0.1, 0.05, 0.02, 0.01), (1, 2, 4, 8, 16, 32)
Numbers = dict[str, Any]


def measure_quality(target: Target, out: Path, sizes: Sizes) -> Numbers:
    """All of it for one target."""
    blank = with_dictionary(
        "untrained", open_model(untrained(model_path(target.name), out / f"untrained-{target.name}"))
    )
    point = target.dictionary.hook_points[BLOCK]
    others = random_dictionaries(target, point)
    return {
        "planted": {name: planted(each, point) for name, each in others.items()},
        "coherence": {name: coherence(torch.as_tensor(each.at(point))) for name, each in others.items()},
        "topics": {"trained": topics(target.dictionary), "untrained": topics(blank.dictionary)},
        "paths": paths(target, others, point),
        "signs": {name: signs(Setup(target, unwanted, sizes)) for name, unwanted in UNWANTED.items()},
    }


def random_dictionaries(target: Target, point: str) -> dict[str, ConceptDictionary]:
    """The target's dictionary, and two of the same shape: isotropic, and differences of random stimuli's residuals."""
    shape, generator = target.dictionary.at(point).shape, torch.Generator().manual_seed(0)
    prompts = [text for each in concept_stimuli() for text in each.prompts(STIMULI_TEMPLATE)[:5]]
    states = capture(target.model, prompts, [point]).tensor(point).float()
    order = torch.randperm(len(states), generator=generator)
    pairs = states[order[: shape[0]]] - states[order[shape[0] : 2 * shape[0]]]
    made = {"isotropic": torch.randn(shape, generator=generator), "random differences": pairs}
    return {
        "concepts": target.dictionary,
        **{
            name: ConceptDictionary(
                target.dictionary.names,
                target.dictionary.topics,
                (point,),
                {point: torch.nn.functional.normalize(each, dim=1)},
            )
            for name, each in made.items()
        },
    }


def coherence(atoms: Float[Tensor, "atom d_model"]) -> Numbers:
    """How alike atoms are: mean over atoms of the largest |cos| with another, and the mean |cos| of all pairs."""
    cosines = (atoms.double() @ atoms.double().T).abs()
    cosines.fill_diagonal_(0)
    return {"nearest": float(cosines.amax(1).mean()), "mean": float(cosines.sum() / (len(atoms) * (len(atoms) - 1)))}


def topics(dictionary: ConceptDictionary) -> list[Numbers]:
    """AUC of same-topic pairs by block: |cos| as in the paper, and signed and centred; all pairs, and of one form."""
    last_words = {each.concept: {text.split()[-1] for text in each.stimuli} for each in concept_stimuli()}
    forms = [next(iter(last_words[name])) if len(last_words[name]) == 1 else "" for name in dictionary.names]
    rows = []
    for point in dictionary.hook_points:
        for pairs, given in (("all", None), ("one form", forms)):
            for measure, signed in (("|cos|", False), ("centred cosine", True)):
                one = topic_separation(dictionary, point, signed=signed, centred=signed, forms=given, draws=DRAWS)
                rows.append(
                    {
                        "hook_point": point,
                        "pairs": pairs,
                        "measure": measure,
                        "auc": one.auc,
                        "p_value": one.p_value,
                        "null_mean": one.null_mean,
                        "null_highest": one.null_highest,
                        "n_same": one.n_same,
                        "n_different": one.n_different,
                    }
                )
    return rows


def paths(target: Target, dictionaries: Mapping[str, ConceptDictionary], point: str) -> Numbers:
    """Concepts against error on the last tokens of documents of the world."""
    states = capture(target.model, map_texts(N_ACTIVATIONS), [point], truncate="left").tensor(point).float()
    return {
        name: _path(sparsity_path(each, states, point, alphas=ALPHAS, counts=COUNTS))
        for name, each in dictionaries.items()
    }


def _path(found: SparsityPath) -> list[Numbers]:
    return [
        {
            "solver": point.solver,
            "parameter": point.parameter,
            "count": point.count.value,
            "error": [point.error.value, point.error.low, point.error.high],
        }
        for point in found.points
    ]


def signs(setup: Setup) -> Numbers:
    """Coefficients of the undesirable atoms under the bad cue, and how many of them are negative."""
    target, names = setup.target, setup.topic_atoms
    points = target.dictionary.hook_points
    rows = [target.dictionary.index(name) for name in names]
    opposite = [target.dictionary.index(name) for name in target.topic(setup.unwanted.opposite)]
    prompts = [item.prompt for item in setup.asked("validation", setup.bad_cue()).items]
    store = capture(target.model, prompts, points)
    solvers: dict[str, Solver] = {
        "elastic net 0.05": ElasticNet(0.05),
        "elastic net 0.01": ElasticNet(0.01),
        "OMP 10": OMP(10),
        "projection": OrthogonalProjection(),
    }
    found: Numbers = {name: [] for name in solvers}
    for point in points:
        states = store.tensor(point).float()
        for name, solver in solvers.items():
            alone = solver.scope == "undesirable"
            atoms = (
                PreparedAtoms.of(torch.as_tensor(target.dictionary.at(point))[rows])
                if alone
                else target.prepared[point]
            )
            codes = solver.decompose(atoms, states).dense() / states.norm(dim=1, keepdim=True)
            found[name].append({"hook_point": point, **_signs(codes if alone else codes[:, rows])})
            if not alone:
                found[name][-1]["opposite"] = float(codes[:, opposite].sum(1).mean())
                found[name][-1]["all"] = float(codes.abs().sum(1).mean())
    point = points[BLOCK]
    shares = decompose(target.dictionary, store.tensor(point).float(), point, solver=ElasticNet(0.05)).mean_shares()
    return {"by_block": found, "largest": [list(each) for each in shares[:8]], "hook_point": point}


def _signs(codes: Float[Tensor, "row atom"]) -> Numbers:
    """Of coefficients in units of the activation's norm: their sum, and what is negative of them."""
    nonzero, negative = codes != 0, codes < 0
    return {
        "sum": float(codes.sum(1).mean()),
        "negative_count": float(negative.sum() / nonzero.sum().clamp_min(1)),
        "negative_mass": float(codes[negative].abs().sum() / codes.abs().sum().clamp_min(1e-12)),
        "count": float(nonzero.sum(1).float().mean()),
    }
