"""The runs that a study consists of: each trained once, whoever asks for it."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from imae_jax.errors import UserError
from imae_jax.storage import pytrees, workdir

# "run:ROLE" in a config stands for the workdir of that role's run.
REFERENCE = "run:"
# Keys that say what a run is measured by; the rest say what is trained.
OF_EVALUATION = ("evals.", "explorer.", "data.evaluate_on.")
# Runs that a run is trained from; which ones decides what it becomes.
STARTS = ("init", "teacher.init")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of a study, not yet trained, with what it is measured by.

    Attributes:
      name: the arm, role and seed that first asked for it, in words.
      config: of the run; "run:ROLE" where a parent's workdir belongs.
      parents: by the key that names them.
      training, evaluation: digests of what is trained, and of that and what is measured.
    """

    name: str
    config: ConfigDict
    parents: Mapping[str, "Cell"]
    training: str
    evaluation: str

    def folder(self, workdir: Path) -> Path:
        """Its workdir."""
        return workdir / "cells" / f"{self.config.model.name}-{self.training}"

    def results_file(self, workdir: Path) -> Path:
        """What was measured; it exists once the cell is done."""
        return self.folder(workdir) / f"results-{self.evaluation}.json"

    def resolved(self, workdir: Path) -> ConfigDict:
        """The config with the parents' workdirs in place."""
        config = self.config.copy_and_resolve_references()
        for key, parent in self.parents.items():
            config.update_from_flattened_dict({key: str(parent.folder(workdir))})
        return config

    def ancestors(self) -> Iterator["Cell"]:
        """All that have to be trained before it, in order."""
        for parent in self.parents.values():
            yield from parent.ancestors()
            yield parent


def digest(value) -> str:
    """Twelve hexadecimal digits of a JSON value."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def digests(config: ConfigDict, parents: Mapping[str, Cell]) -> tuple[str, str]:
    """(of what is trained, of that and what is measured); parents count, not paths."""
    flat = pytrees.flatten(workdir.as_json(config))
    flat |= {key: parent.training for key, parent in parents.items()}
    measured = {k: v for k, v in flat.items() if k.startswith(OF_EVALUATION)}
    trained = {
        key: value
        for key, value in flat.items()
        if key in STARTS or not key.startswith(workdir.NEUTRAL_KEYS)
    }
    training = digest(trained)
    return training, digest([training, measured])


def make_cell(study: ConfigDict, arm: str, role: str, seed: int, asking=()) -> Cell:
    """The cell of an arm's role.

    Args:
      study: its config.
      arm, role: names in `study.arms` and the arm's `runs`.
      seed: added to the run's own.
      asking: roles that wait for this one.
    Raises:
      UserError: for a role, a base or a key that does not exist, and for circles.
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
        raise UserError(f"{where}.change: {' '.join(str(error).split())}") from None
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


# (arm, role, seed) -> the cell; cells that are equal stand there several times.
Grid = Mapping[tuple[str, str, int], Cell]


def make_grid(study: ConfigDict) -> Grid:
    """Every cell, a whole table of one seed before the next seed.

    Raises:
      UserError: for a grid without cells, seeds that are repeated or negative, and as
        `make_cell`.
    """
    for section in ("name", "seeds", "runs", "arms", "columns"):
        if section not in study:
            raise UserError(f"--config describes no study: it has no {section!r}")
    seeds = study.seeds
    if not seeds or not study.arms:
        raise UserError(
            f"{len(study.arms)} arms and seeds={seeds}: a study needs at least one of each"
        )
    possible = all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not possible or len(set(seeds)) < len(seeds):
        raise UserError(
            f"seeds={seeds} is not possible: they must be 0 or more, all different"
        )
    return {
        (arm, role, seed): make_cell(study, arm, role, seed)
        for seed in seeds
        for arm in study.arms
        for role in study.arms[arm].runs
    }
