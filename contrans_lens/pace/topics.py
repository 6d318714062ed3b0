"""Do the atoms know which concepts belong together? Same-topic pairs against different-topic pairs.

Concepts of one topic often have stimuli of one form, and atoms that are read at the same word are alike in any model,
an untrained one too. Give the forms as ``forms`` to compare only concepts whose stimuli have the same one: then the
form can explain nothing.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from contrans_lens.errors import PaceError
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.retrieval import mean_atom, pairwise_cosines


@dataclass(frozen=True)
class TopicSeparation:
    """How far same-topic atoms are nearer to each other than different-topic ones; by :func:`topic_separation`."""

    hook_point: str
    """Where the atoms were read."""
    auc: float
    """Probability that a same-topic pair has the higher ``|cos|`` (or cosine) than a different-topic pair; ties count
    one half. 0.5: topics say nothing."""
    p_value: float
    """Rank of the AUC among those of topics shuffled over the atoms, ``(1 + #{draw >= auc}) / (1 + #draws)``."""
    null_mean: float
    """Mean AUC of the shuffled topics."""
    null_highest: float
    """Their highest."""
    same_mean: float
    """Mean ``|cos|`` (or cosine) of same-topic pairs."""
    different_mean: float
    """Mean of different-topic pairs."""
    n_same: int
    """Same-topic pairs."""
    n_different: int
    """Different-topic pairs."""

    def __str__(self) -> str:
        return (
            f"{self.hook_point}: AUC {self.auc:.3f} (p {self.p_value:.4f}; shuffled topics {self.null_mean:.3f}, at "
            f"most {self.null_highest:.3f}); same topic {self.same_mean:.3f} in {self.n_same} pairs, different "
            f"{self.different_mean:.3f} in {self.n_different}"
        )


def topic_separation(
    dictionary: ConceptDictionary,
    hook_point: str,
    *,
    topics: Collection[str] | None = None,
    signed: bool = False,
    centred: bool = False,
    forms: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> TopicSeparation:
    """AUC of the similarity of same-topic pairs against different-topic pairs, with a permutation null.

    Pairs share atoms, so they are not independent and no formula for the AUC's error holds; shuffling the topics over
    the atoms keeps that dependence.

    Args:
        dictionary: the concepts; those without a topic are left out.
        hook_point: where the atoms were read.
        topics: only concepts of these topics; None: of all.
        signed: compare cosines; otherwise ``|cos|``, the paper's measure, for which opposites are alike.
        centred: take the mean of the atoms in question away first: the direction that all concepts share.
        forms: the form of each atom's stimuli, e.g. their last word; only pairs of one form are compared, and topics
            are shuffled within each. Concepts whose form is empty are left out. None: all pairs.
        draws: number of shuffles.
        seed: of the shuffles.

    Raises:
        HookPointError: the dictionary has no atoms there.
        PaceError: a topic that no concept has, no pair of either kind, no draws, or too many atoms for all pairs.
    """
    if draws < 1:
        raise PaceError(f"a null needs at least one shuffle; draws={draws} was given.")
    unknown = sorted(set(topics or ()) - set(dictionary.topics))
    if unknown:
        raise PaceError(f"no concept has the topics {unknown}; there are {sorted(set(dictionary.topics))}.")
    found = ["all"] * dictionary.n_atoms if forms is None else list(forms)
    if len(found) != dictionary.n_atoms:
        raise PaceError(f"{len(found)} forms for {dictionary.n_atoms} atoms; give one each, empty to leave it out.")
    rows = [
        row
        for row, topic in enumerate(dictionary.topics)
        if topic and found[row] and (topics is None or topic in topics)
    ]
    labels = _numbered([dictionary.topics[row] for row in rows])
    strata = _numbered([found[row] for row in rows])
    compared = _same(strata)
    values = _pair_values(dictionary.at(hook_point)[rows], signed, centred)[compared]
    same = _same(labels)[compared]
    n_same, n_different = int(same.sum()), int((~same).sum())
    if not n_same or not n_different:
        raise PaceError(
            f"{n_same} same-topic and {n_different} different-topic pairs; at least one of each is needed. Give the "
            "concepts topics, some of which are shared."
        )
    ranks = torch.from_numpy(rankdata(values.numpy()))
    generator = torch.Generator().manual_seed(seed)
    null = [_auc(ranks, _same(_shuffled(labels, strata, generator))[compared]) for _ in range(draws)]
    auc = _auc(ranks, same)
    return TopicSeparation(
        hook_point,
        auc,
        (1 + sum(draw >= auc for draw in null)) / (1 + draws),
        sum(null) / draws,
        max(null),
        float(values[same].mean()),
        float(values[~same].mean()),
        n_same,
        n_different,
    )


def _numbered(words: Sequence[str]) -> Int[Tensor, " atom"]:
    number = {word: index for index, word in enumerate(dict.fromkeys(words))}
    return torch.tensor([number[word] for word in words], dtype=torch.int64)


def _shuffled(
    labels: Int[Tensor, " atom"], strata: Int[Tensor, " atom"], generator: torch.Generator
) -> Int[Tensor, " atom"]:
    """Labels permuted within each stratum, so that the numbers of pairs of both kinds stay."""
    drawn = torch.randperm(len(labels), generator=generator)
    shuffled = torch.empty_like(labels)
    shuffled[strata.argsort(stable=True)] = labels[drawn[strata[drawn].argsort(stable=True)]]
    return shuffled


def _pair_values(atoms: Float[Tensor, "atom d_model"], signed: bool, centred: bool) -> Float[Tensor, " pair"]:
    """Similarity of every pair of atoms, once."""
    if centred:
        atoms = torch.nn.functional.normalize(atoms.float() - mean_atom(atoms), dim=1)
    cosines = pairwise_cosines(atoms)
    first, second = torch.triu_indices(len(atoms), len(atoms), offset=1)
    values = cosines[first, second]
    return values if signed else values.abs()


def _same(labels: Int[Tensor, " atom"]) -> Bool[Tensor, " pair"]:
    first, second = torch.triu_indices(len(labels), len(labels), offset=1)
    return labels[first] == labels[second]


def _auc(ranks: Float[Tensor, " pair"], same: Bool[Tensor, " pair"]) -> float:
    """Mann-Whitney: from the sum of the ranks of the same-topic pairs, ties at their middle rank."""
    n_same, n_different = int(same.sum()), int((~same).sum())
    return (float(ranks[same].sum()) - n_same * (n_same + 1) / 2) / (n_same * n_different)
