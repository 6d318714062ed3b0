"""A run of PaCE made without a model: every number in it is chosen, so that figures and pages can be checked."""

from collections.abc import Sequence

import torch

from contrans_lens.evaluation import Interval
from contrans_lens.interventions import Audit, Finding, Generation
from contrans_lens.pace.codes import SparseCodes
from contrans_lens.pace.decomposition import Decomposition
from contrans_lens.pace.dictionary import ConceptDictionary
from contrans_lens.pace.partition import ConceptScore, Partition
from contrans_lens.pace.removal import removals
from contrans_lens.pace.run import PaceRun, RemovalDamage

POINTS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
NAMES = ("rude", "<b>harsh</b>", "kind", "$5 bill", "hat", "cup")
TOPICS = ("unkindness", "unkindness", "kindness", "", "things", "things")
UNDESIRABLE = ("rude", "<b>harsh</b>")
FIRST = (("kind", 4.0), ("rude", 3.0), ("<b>harsh</b>", -1.0), ("hat", -0.5))
SECOND = (("kind", 2.0), ("rude", 1.0))


def dictionary(n_atoms: int = len(NAMES), d_model: int = 8) -> ConceptDictionary:
    """Random atoms; those of a topic are alike."""
    generator = torch.Generator().manual_seed(0)
    bases = {topic: torch.randn(d_model, generator=generator) for topic in dict.fromkeys(TOPICS)}
    names = [*NAMES, *(f"more {number}" for number in range(n_atoms))][:n_atoms]
    topics = [TOPICS[row % len(TOPICS)] for row in range(n_atoms)]
    atoms = {}
    for point in POINTS:
        rows = torch.stack([bases[topic] + 0.3 * torch.randn(d_model, generator=generator) for topic in topics])
        atoms[point] = torch.nn.functional.normalize(rows, dim=1)
    return ConceptDictionary(tuple(names), tuple(topics), POINTS, atoms)


def partition(scores: Sequence[float] = (1.0, 0.9, -0.8, 0.1, 0.0, 0.2), reason: str = "unkind & unloved") -> Partition:
    """The first two concepts are undesirable."""
    judged = [ConceptScore(name, score, reason) for name, score in zip(NAMES, scores, strict=True)]
    return Partition("less <i>unkindness</i>", tuple(judged), UNDESIRABLE, "by hand", dictionary().digest)


def finding(point: str, found: Sequence[tuple[str, float]], position: int = 5, **values: float) -> Finding:
    """What was found at one token."""
    removed = tuple(each for each in found if each[0] in UNDESIRABLE)
    numbers = {"norm": 10.0, "residual": 5.0, "removed_norm": 3.0} | values
    return Finding(point, 0, 0, position, tuple(found), removed, **numbers)


FINDINGS = (finding(POINTS[0], FIRST), finding(POINTS[0], SECOND, 6), finding(POINTS[1], (("hat", 2.0),)))


def run(
    findings: Sequence[Finding] | None = FINDINGS,
    *,
    plain: Sequence[str] = ("go <away>", "no"),
    edited: Sequence[str] = ("come & stay", "no"),
    control: Sequence[str] | None = ("go <away>", "no"),
    damage: bool = True,
    judged: Partition | None = None,
    strength: float = 1.0,
) -> PaceRun:
    """A run over two prompts."""
    prompts = ("The <script>boy</script> said:\n", "She said:")

    def written(texts: Sequence[str], audit: Audit | None = None) -> Generation:
        return Generation(prompts, tuple(texts), ((1,), (2,)), audit)

    measured = [
        RemovalDamage(name, Interval(kl, kl / 2, 2 * kl, 0.95, 9, 9), Interval(0.25, 0.125, 0.5, 0.95, 9, 9))
        for name, kl in (("the <task>", 0.0123), ("control 0", 0.0456))
    ]
    return PaceRun(
        {"name": "tiny & <small>"},
        partition() if judged is None else judged,
        removals(dictionary(), UNDESIRABLE, strength=strength),
        written(plain),
        written(edited, None if findings is None else Audit((), tuple(findings))),
        () if control is None else (written(control),),
        tuple(measured) if damage else (),
        "contrans-lens pace --task '<x>'",
    )


def decomposition(texts: tuple[str, ...] = ()) -> Decomposition:
    """Three activations: of four concepts, of one, and of none."""
    atoms = torch.tensor([[2, 0, 1, 4], [3, -1, -1, -1], [-1, -1, -1, -1]])
    values = torch.tensor([[4.0, 3.0, -1.0, -0.5], [2.0, 0, 0, 0], [0.0, 0, 0, 0]])
    norms, residuals = torch.tensor([10.0, 4.0, 0.0]), torch.tensor([5.0, 0.0, 0.0])
    return Decomposition(POINTS[0], NAMES, SparseCodes(atoms, values, 6), norms, residuals, {"kind": "omp"}, texts)
