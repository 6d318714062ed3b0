"""Concept dictionaries: one unit direction for each concept at each hook point of one model."""

import difflib
import html
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from contrans_lens.artifacts import require_kind
from contrans_lens.errors import ArtifactError, FingerprintMismatchError, HookPointError, PaceError
from contrans_lens.models import Fingerprint, HookedModel, check_hook_points, fingerprint
from contrans_lens.pace.duplicates import Dropped, find_duplicates
from contrans_lens.pace.rows import check_unit_rows
from contrans_lens.pace.saving import (
    KIND,
    chosen_files,
    commit,
    dictionary_digest,
    map_layers,
    read_dictionary_manifest,
    tensor_sha256,
    write_layers,
)


@dataclass(frozen=True, eq=False, repr=False)
class ConceptDictionary:
    """The dictionary ``D`` of PaCE (arXiv 2406.04331): an atom for each concept, a ``D`` for each layer.

    Atoms stand in rows here, ``[atom, d_model]``; the paper's ``D`` ``[d_model, atom]`` is the transpose.

    Raises:
        PaceError: names, topics, shapes or quality do not fit together, or an atom is not a finite unit vector.
    """

    names: tuple[str, ...]
    """One per atom, all different."""
    topics: tuple[str, ...]
    """One per atom; empty where unknown."""
    hook_points: tuple[str, ...]
    """Where there are atoms."""
    atoms: Mapping[str, Float[Tensor, "atom d_model"]]
    """By hook point: unit rows; memory-mapped where the dictionary was opened from disk."""
    fingerprint: Fingerprint | None = None
    """The model whose residual stream this is."""
    template: str = ""
    """The prompt that the stimuli stood in."""
    dropped: tuple[Dropped, ...] = ()
    """Duplicates that were left out."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, as plain JSON; a subset keeps the notes of the whole."""
    quality: Float[Tensor, "atom layer"] | None = None
    """Share of (own stimulus, other stimulus) pairs in which the own one projects higher, per hook point; 1 is
    perfect, and it was measured on the stimuli that the atom was made from."""
    check_values: InitVar[bool] = True
    """Whether to read all atoms and check that they are finite and of unit length."""

    def __post_init__(self, check_values: bool) -> None:
        n = len(self.names)
        if not n or len(set(self.names)) < n or not all(self.names):
            raise PaceError(f"{n} atoms need as many different, non-empty names; {len(set(self.names))} are different.")
        if len(self.topics) != n:
            raise PaceError(f"{len(self.topics)} topics for {n} atoms; give one each, empty where unknown.")
        if (
            not self.hook_points
            or set(self.hook_points) != self.atoms.keys()
            or len(self.hook_points) != len(self.atoms)
        ):
            raise PaceError(
                f"atoms were given at {sorted(self.atoms)} and the hook points are {list(self.hook_points)}; they must "
                "be the same, each once."
            )
        shapes = {tuple(rows.shape) for rows in self.atoms.values()}
        if len(shapes) > 1 or shapes.pop()[0] != n:
            found = {name: list(rows.shape) for name, rows in self.atoms.items()}
            raise PaceError(f"{n} names need {n} atoms of one width at every hook point; the shapes are {found}.")
        if self.quality is not None and tuple(self.quality.shape) != (n, len(self.hook_points)):
            raise PaceError(f"the quality has shape {list(self.quality.shape)}; [atom, layer] was expected.")
        if check_values:
            for hook_point, rows in self.atoms.items():
                check_unit_rows(rows, self.names, hook_point)

    @property
    def n_atoms(self) -> int:
        """Number of concepts."""
        return len(self.names)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.atoms[self.hook_points[0]].shape[1]

    def __len__(self) -> int:
        return self.n_atoms

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the names, hook points and atoms: what decompositions and partitions depend on."""
        return dictionary_digest(self.names, {name: tensor_sha256(self.atoms[name]) for name in self.hook_points})

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def at(self, hook_point: str) -> Float[Tensor, "atom d_model"]:
        """The atoms at a hook point.

        Raises:
            HookPointError: there are none.
        """
        if hook_point not in self.atoms:
            raise HookPointError(
                f"the dictionary has no atoms at {hook_point!r}; it has {', '.join(self.hook_points)}."
            )
        return self.atoms[hook_point]

    def index(self, name: str) -> int:
        """Row of a concept.

        Raises:
            PaceError: there is no atom of that name; those that resemble it are named, and so is the atom that was
                kept where this one was dropped as its duplicate.
        """
        found = self._index.get(name)
        if found is not None:
            return found
        kept = [record.of for record in self.dropped if record.name == name]
        if kept:
            raise PaceError(f"concept {name!r} was dropped as a duplicate of {kept[0]!r}; ask for that one.")
        near = difflib.get_close_matches(name, self.names, n=3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else " See .names for all."
        raise PaceError(f"the dictionary has no concept {name!r} among its {self.n_atoms}.{hint}")

    def subset(self, names: Sequence[str]) -> "ConceptDictionary":
        """The same dictionary with only some concepts, in the order given; their atoms are copied.

        Raises:
            PaceError: a name is unknown or given twice, or none was given.
        """
        if isinstance(names, str):
            raise PaceError(f"the names are one string, {names!r}; give a list.")
        return self._rows([self.index(name) for name in names], self.dropped)

    def select(self, hook_points: Sequence[str]) -> "ConceptDictionary":
        """The same dictionary at some of its hook points; nothing is copied.

        Raises:
            HookPointError: there are no atoms at one of them.
        """
        atoms = {name: self.at(name) for name in hook_points}
        columns = [self.hook_points.index(name) for name in hook_points]
        quality = None if self.quality is None else self.quality[:, columns]
        return replace(self, hook_points=tuple(hook_points), atoms=atoms, quality=quality, check_values=False)

    def merged(self, other: "ConceptDictionary", *, cosine_limit: float = 0.999) -> "ConceptDictionary":
        """Both dictionaries as one, this one's atoms first; duplicates among them are dropped and named.

        Args:
            other: a dictionary of the same model at the same hook points.
            cosine_limit: atoms with a greater ``|cos|`` at any hook point are duplicates; the first stays.

        Raises:
            FingerprintMismatchError: the other one is of another model.
            PaceError: it has other hook points or another width.
        """
        if self.fingerprint is not None and other.fingerprint is not None:
            self.fingerprint.require(other.fingerprint, "the dictionary")
        if self.hook_points != other.hook_points or self.d_model != other.d_model:
            raise PaceError(
                f"one dictionary has {len(self.hook_points)} hook points of width {self.d_model}, the other "
                f"{len(other.hook_points)} of width {other.d_model}; both must have the same in the same order: bring "
                "them together with .select(hook_points)."
            )
        names = [*self.names, *other.names]
        pairs = {name: torch.cat([self.atoms[name], other.atoms[name]]) for name in self.hook_points}
        found = find_duplicates(names, pairs, cosine_limit)
        kept = found.kept.tolist()
        quality = None
        if self.quality is not None and other.quality is not None:
            quality = torch.cat([self.quality, other.quality])[found.kept]
        topics = [*self.topics, *other.topics]
        return ConceptDictionary(
            names=tuple(names[row] for row in kept),
            topics=tuple(topics[row] for row in kept),
            hook_points=self.hook_points,
            atoms={name: rows[found.kept] for name, rows in pairs.items()},
            fingerprint=self.fingerprint or other.fingerprint,
            template=self.template if self.template == other.template else "",
            dropped=(*self.dropped, *other.dropped, *found.dropped),
            notes={"merged": [dict(self.notes), dict(other.notes)]},
            quality=quality,
            check_values=False,
        )

    def require_model(self, model: HookedModel) -> None:
        """Refuse a model that the atoms were not read from.

        Raises:
            FingerprintMismatchError: the model differs, or none was recorded.
            HookPointError: the model lacks one of the hook points.
        """
        if self.fingerprint is None:
            raise FingerprintMismatchError(
                "the concept dictionary records no model, so it cannot be checked against yours; make or read it "
                "again with the model's fingerprint."
            )
        self.fingerprint.require(fingerprint(model), "the concept dictionary")
        check_hook_points(model, self.hook_points)

    def save(self, folder: Path | str) -> Path:
        """Save as a ``concept_dictionary`` artifact; an older one there is replaced whole or not at all.

        Raises:
            ArtifactError: the folder cannot be written, or the notes are not JSON.
        """
        folder = Path(folder)
        require_kind(folder, KIND)
        files = write_layers(folder, {name: self.atoms[name] for name in self.hook_points}, self.quality)
        body = {
            "names": list(self.names),
            "topics": list(self.topics),
            "d_model": self.d_model,
            "model": self.fingerprint.to_dict() if self.fingerprint else None,
            "template": self.template,
            "dropped": [record.to_dict() for record in self.dropped],
            "notes": dict(self.notes),
            "digest": dictionary_digest(self.names, {file.hook_point: file.atoms_sha256 for file in files}),
        }
        commit(folder, files, body)
        return folder

    @classmethod
    def open(
        cls,
        folder: Path | str,
        model: HookedModel | None = None,
        *,
        hook_points: Sequence[str] | None = None,
        verify: bool = True,
    ) -> "ConceptDictionary":
        """Open a saved dictionary; its atoms stay on disk, mapped into memory.

        Args:
            folder: the artifact.
            model: the model it is to be used with; a dictionary of another one is refused.
            hook_points: those that are wanted; the files of others are not touched. ``None`` is all.
            verify: read everything once, compare checksums and check that the atoms are finite unit vectors;
                without it only a truncated or missing file is noticed.

        Raises:
            ArtifactError: the folder is no dictionary, or is damaged, or of another schema version.
            FingerprintMismatchError: it was made on another model, or records none.
            HookPointError: it has no atoms at a hook point that is wanted.
        """
        folder = Path(folder)
        files, body = read_dictionary_manifest(folder)
        wanted = chosen_files(files, hook_points, folder)
        atoms, quality = map_layers(folder, wanted, verify=verify)
        try:
            names = tuple(body["names"])
            whole = dictionary_digest(names, {file.hook_point: file.atoms_sha256 for file in files})
            loaded = cls(
                names=names,
                topics=tuple(body["topics"]),
                hook_points=tuple(file.hook_point for file in wanted),
                atoms=atoms,
                fingerprint=None if body["model"] is None else Fingerprint.from_dict(body["model"]),
                template=body["template"],
                dropped=tuple(Dropped(**record) for record in body["dropped"]),
                notes=body["notes"],
                quality=quality,
                check_values=verify,
            )
            fits = whole == body["digest"]
        except (KeyError, TypeError, PaceError) as error:
            raise ArtifactError(
                f"the manifest of {folder} does not fit: {error} Build the dictionary again."
            ) from error
        if not fits:
            raise ArtifactError(f"the names in the manifest of {folder} were altered; build the dictionary again.")
        # The checksums that were compared are those the digest is made of: reading the atoms again would tell no more.
        vars(loaded)["digest"] = dictionary_digest(names, {file.hook_point: file.atoms_sha256 for file in wanted})
        if model is not None:
            loaded.require_model(model)
        return loaded

    def to_frame(self) -> pd.DataFrame:
        """A row for each atom: its ``name``, ``topic`` and mean ``quality`` over hook points (NaN: not measured)."""
        quality = self.quality.mean(1).tolist() if self.quality is not None else [float("nan")] * self.n_atoms
        return pd.DataFrame({"name": self.names, "topic": self.topics, "quality": quality})

    def __str__(self) -> str:
        return "ConceptDictionary(" + ", ".join(f"{key}: {value}" for key, value in self._summary().items()) + ")"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
            for key, value in self._summary().items()
        )
        return f"<table><caption>Concept dictionary</caption>{rows}</table>"

    def _summary(self) -> dict[str, str]:
        first, last = self.hook_points[0], self.hook_points[-1]
        where = first if len(self.hook_points) == 1 else f"{len(self.hook_points)}, {first} to {last}"
        found = {
            "atoms": f"{self.n_atoms:,}",
            "width": str(self.d_model),
            "topics": str(len(set(self.topics) - {""})),
            "hook points": where,
            "duplicates dropped": str(len(self.dropped)),
            "model": str(self.notes.get("model") or (self.fingerprint.name if self.fingerprint else "not recorded")),
        }
        if self.quality is not None:
            found["mean quality"] = f"{float(self.quality.mean()):.3f}"
        return found

    def _rows(self, rows: list[int], dropped: tuple[Dropped, ...]) -> "ConceptDictionary":
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            topics=tuple(self.topics[row] for row in rows),
            atoms={name: self.atoms[name][rows] for name in self.hook_points},
            dropped=dropped,
            quality=None if self.quality is None else self.quality[rows],
            check_values=False,
        )
