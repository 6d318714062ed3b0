"""Removals on disk: everything they need, so that they can be replayed without the dictionary they were made from."""

from collections.abc import Sequence
from pathlib import Path

import torch

from contrans_lens.artifacts import load_artifact, read_manifest, save_artifact
from contrans_lens.errors import ArtifactError, FingerprintMismatchError, InterventionError, PaceError
from contrans_lens.interventions import Edit, load_interventions, positions_from_dict, positions_to_dict
from contrans_lens.models import Fingerprint, HookedModel
from contrans_lens.pace.removal import ConceptRemoval
from contrans_lens.pace.solvers.prepared import PreparedAtoms
from contrans_lens.pace.solvers.solver import solver_from_dict

KIND = "concept_removals"


def save_removals(folder: Path | str, removals: Sequence[ConceptRemoval]) -> Path:
    """Save removals, in order, as one artifact folder; atoms that several of them share are written once.

    Raises:
        PaceError: there are none.
        ArtifactError: the folder cannot be written.
    """
    if not removals:
        raise PaceError("there is no removal to save.")
    if other := next((each for each in removals if not isinstance(each, ConceptRemoval)), None):
        raise PaceError(f"{other} is no removal; save interventions apart, with save_interventions().")
    places: dict[int, str] = {}
    tensors, described = {}, []
    for number, each in enumerate(removals):
        place = places.setdefault(id(each.prepared), f"atoms.{number}")
        tensors[place] = each.prepared.atoms.cpu()
        tensors[f"undesirable.{number}"] = each.undesirable.cpu().clone()
        described.append(
            {
                "hook_point": each.hook_point,
                "names": list(each.names),
                "atoms": place,
                "solver": each.solver.to_dict(),
                "mode": each.mode,
                "positions": positions_to_dict(each.positions),
                "strength": each.strength,
                "fingerprint": None if each.fingerprint is None else each.fingerprint.to_dict(),
                "label": each.label,
                "digest": each.digest,
            }
        )
    return save_artifact(Path(folder), KIND, tensors, {"removals": described})


def load_removals(folder: Path | str, model: HookedModel | None = None) -> tuple[ConceptRemoval, ...]:
    """Load what :func:`save_removals` wrote, in order.

    Args:
        folder: the artifact's folder.
        model: where given, every removal must have been made for it.

    Raises:
        ArtifactError: another kind, another schema, damaged, or not what removals consist of.
        FingerprintMismatchError: made on another model or weight processing.
    """
    artifact = load_artifact(Path(folder), KIND)
    ready: dict[str, PreparedAtoms] = {}
    loaded = []
    try:
        for number, fields in enumerate(artifact.body["removals"]):
            options = dict(fields)
            place = options.pop("atoms")
            if place not in ready:
                ready[place] = PreparedAtoms.of(artifact.tensors[place])
            known = options.pop("fingerprint")
            loaded.append(
                ConceptRemoval(
                    prepared=ready[place],
                    undesirable=artifact.tensors[f"undesirable.{number}"].to(torch.bool),
                    names=tuple(options.pop("names")),
                    solver=solver_from_dict(options.pop("solver")),
                    positions=positions_from_dict(options.pop("positions")),
                    fingerprint=None if known is None else Fingerprint.from_dict(known),
                    **options,
                )
            )
    except (KeyError, TypeError, AttributeError, PaceError, InterventionError, FingerprintMismatchError) as error:
        raise ArtifactError(f"{folder} does not hold valid removals: {error}. Make the artifact again.") from error
    if not loaded:
        raise ArtifactError(f"{folder} holds no removals; make the artifact again.")
    if model is not None:
        for each in {id(one.fingerprint): one for one in loaded}.values():
            each.require_model(model)
    return tuple(loaded)


def load_edits(folder: Path | str, model: HookedModel | None = None) -> tuple[Edit, ...]:
    """Load saved interventions or removals, whichever the folder holds.

    Raises:
        ArtifactError: it holds neither, or a damaged artifact.
        FingerprintMismatchError: made on another model or weight processing.
    """
    if read_manifest(Path(folder))["kind"] == KIND:
        return load_removals(folder, model)
    return tuple(load_interventions(Path(folder), model))
