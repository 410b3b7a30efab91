"""The grid of runs in a study, deduplicated so that shared runs are trained once."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from imae_jax.errors import UserError, one_line, require
from imae_jax.storage import pytrees, workdir
from imae_jax.storage.local_paths import check_name

# Folder of the runs in a workdir.
CELLS = "cells"
# "run:ROLE" in a config is replaced by the workdir of that role's run.
REFERENCE = "run:"
# Prefixes of keys that affect evaluation only; the others affect training.
OF_EVALUATION = ("evals.", "explorer.", "data.evaluate_on.", "data.files.label_maps")
# Keys of runs that a run is trained from; they are part of the training digest.
STARTS = ("init", "teacher.init")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of a study and its evaluation.

    Attributes:
      name: description by the first arm, role and seed that use it.
      config: config of the run, with "run:ROLE" for workdirs of parents.
      parents: {config key that names the parent: its cell}.
      training: digest of everything that affects training.
      evaluation: digest of everything that affects training or evaluation.
    """

    name: str
    config: ConfigDict
    parents: Mapping[str, "Cell"]
    training: str
    evaluation: str

    def folder(self, workdir: Path) -> Path:
        """Workdir of the run."""
        return workdir / CELLS / f"{self.config.model.name}-{self.training}"

    def results_file(self, workdir: Path) -> Path:
        """File of the metrics; it exists once the run has been evaluated."""
        return self.folder(workdir) / f"results-{self.evaluation}.json"

    def resolved(self, workdir: Path) -> ConfigDict:
        """Returns the config with the parents' workdirs filled in."""
        config = self.config.copy_and_resolve_references()
        for key, parent in self.parents.items():
            config.update_from_flattened_dict({key: str(parent.folder(workdir))})
        return config

    def ancestors(self) -> Iterator["Cell"]:
        """Yields the cells that must be trained before it, in order."""
        for parent in self.parents.values():
            yield from parent.ancestors()
            yield parent


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, first twelve hexadecimal digits."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def digests(config: ConfigDict, parents: Mapping[str, Cell]) -> tuple[str, str]:
    """Returns (training digest, evaluation digest); parents count, not their paths.

    So do keys that a later version added, once they are set: runs that were trained before
    it keep their digests.
    """
    flat = workdir.without_added_keys(pytrees.flatten(workdir.as_json(config)))
    flat |= {key: parent.training for key, parent in parents.items()}
    measured = {k: v for k, v in flat.items() if k.startswith(OF_EVALUATION)}
    trained = {
        key: value
        for key, value in flat.items()
        if key in STARTS or not key.startswith(workdir.NEUTRAL_KEYS)
    }
    training = digest(trained)
    return training, digest([training, measured])


def make_cell(
    study: ConfigDict, arm: str, role: str, seed: int, asking: tuple[str, ...] = ()
) -> Cell:
    """Makes the cell of an arm's role.

    Args:
      study: config of the study.
      arm, role: keys of `study.arms` and of the arm's `runs`.
      seed: added to the run's own seed.
      asking: roles that depend on this one.
    Raises:
      UserError: for unknown roles, bases and keys, and for circular dependencies.
    """
    where = f"arms.{arm}.runs.{role}"
    if role in asking:
        raise UserError(f"{where}: it starts from itself, by {' and '.join(asking)}")
    roles = study.arms[arm].runs
    if role not in roles:
        known = ", ".join(roles)
        raise UserError(f"arms.{arm}: there is no run {role!r}; it has {known}")
    base = roles[role].base
    if base not in study.runs:
        known = ", ".join(study.runs)
        raise UserError(f"{where}.base={base!r} is no run; runs: {known}")
    config = study.runs[base].copy_and_resolve_references()
    try:
        config.lock().update(roles[role].change)
    except (KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{where}.change: {one_line(error)}") from None
    config.seed += seed
    parents = {
        key: make_cell(
            study, arm, value.removeprefix(REFERENCE), seed, asking=(*asking, role)
        )
        for key, value in pytrees.flatten(workdir.as_json(config)).items()
        if isinstance(value, str) and value.startswith(REFERENCE)
    }
    name = f"{study.arms[arm].label}: {role}, seed {seed}"
    return Cell(name, config, parents, *digests(config, parents))


# {(arm, role, seed): cell}; equal cells occur several times.
Grid = Mapping[tuple[str, str, int], Cell]


def make_grid(study: ConfigDict) -> Grid:
    """Makes all cells, seed by seed.

    Raises:
      UserError: for an empty grid, repeated or negative seeds, columns that do not exist,
        and as in `make_cell`.
    """
    sections = ("name", "seeds", "runs", "arms", "columns", "primary", "correlate")
    for section in sections:
        if section not in study:
            raise UserError(f"--config describes no study: it has no {section!r}")
    check_name(study.name, "name")
    require(study.name != CELLS, "name", study.name, "another name: runs are kept there")
    for key, names in (("primary", [study.primary]), ("correlate", study.correlate)):
        for name in names:
            if name not in study.columns:
                known = ", ".join(study.columns)
                raise UserError(f"{key}={name!r} is no column; columns: {known}")
    seeds = study.seeds
    if not seeds or not study.arms:
        raise UserError(
            f"{len(study.arms)} arms and seeds={seeds}: a study needs at least one of each"
        )
    possible = all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not possible or len(set(seeds)) < len(seeds):
        raise UserError(f"invalid seeds={seeds}: must be 0 or more, all different")
    return {
        (arm, role, seed): make_cell(study, arm, role, seed)
        for seed in seeds
        for arm in study.arms
        for role in study.arms[arm].runs
    }
