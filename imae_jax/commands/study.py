"""Studies: grids of runs, each trained and evaluated once, summarized in a table."""

import logging
import statistics
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from imae_jax import evaluation
from imae_jax.commands.study_grid import CELLS, Cell, Grid, make_grid
from imae_jax.config.checks import check_keys
from imae_jax.errors import UserError, describe, naming
from imae_jax.report import study_statistics, study_tables
from imae_jax.storage import atomic_files
from imae_jax.storage.checkpoint import newest_meta
from imae_jax.storage.local_paths import check_paths
from imae_jax.storage.workdir import as_json, open_workdir, settle_dtype
from imae_jax.training import setup
from imae_jax.training.loop import train
from imae_jax.training.restore import starting_params

logger = logging.getLogger(__name__)


def check(cells: Iterable[Cell], workdir: Path) -> None:
    """Checks every config, and initial weights from outside the study.

    Raises:
      UserError: the message names the run.
    """
    # Runs that differ only in their seed are checked once.
    to_check: dict[str, Cell] = {}
    for cell in cells:
        if not is_done(cell, workdir):
            to_check.setdefault(str(as_json(cell.config) | {"seed": None}), cell)
    # All keys first: to check the rest, data sets are prepared.
    for cell in to_check.values():
        with naming(cell.name):
            check_keys(cell.resolved(workdir))
    for cell in to_check.values():
        config, folder = cell.resolved(workdir), cell.folder(workdir)
        with naming(cell.name):
            setup.check(config, folder)
            if config.init and not cell.parents:
                starting_params(setup.set_up(config, folder))


def is_done(cell: Cell, workdir: Path) -> bool:
    """True if the run has been trained and evaluated."""
    return cell.results_file(workdir).exists()


def run_cell(cell: Cell, workdir: Path) -> None:
    """Trains or resumes a run, evaluates it and stores the metrics."""
    started = time.monotonic()
    config, folder = cell.resolved(workdir), cell.folder(workdir)
    train(config, folder)
    numbers = evaluation.evaluate(config, folder) if config.evals else {}
    found = {"cell": cell.name, "seconds": time.monotonic() - started, "numbers": numbers}
    atomic_files.write_json(cell.results_file(workdir), found)


def seconds_left(todo: Iterable[Cell], done: Mapping[str, list[float]]) -> float | None:
    """Estimates the remaining seconds from finished runs of the same kind, or None."""
    if not done:
        return None
    overall = statistics.mean(s for seconds in done.values() for s in seconds)
    means = {kind: statistics.mean(seconds) for kind, seconds in done.items()}
    return sum(means.get(cell.config.model.name, overall) for cell in todo)


def run_cells(cells: list[Cell], workdir: Path) -> dict[str, str]:
    """Executes the unfinished runs; a failure skips only the runs that depend on it.

    Returns:
      {`evaluation` of a failed or skipped run: the reason}.
    """
    failed: dict[str, str] = {}
    took: dict[str, list[float]] = {}
    names = {cell.evaluation: cell.name for cell in cells}
    todo = [cell for cell in cells if not is_done(cell, workdir)]
    for number, cell in enumerate(todo):
        left = seconds_left(todo[number:], took)
        text = "" if left is None else f"; about {left / 60:.0f} min left"
        place = f"cell {len(cells) - len(todo) + number + 1} of {len(cells)}"
        logger.info(f"\nstudy: {place}, {cell.name}{text}")
        lost = [names[c.evaluation] for c in cell.ancestors() if c.evaluation in failed]
        if lost:
            failed[cell.evaluation] = f"left out: it needs {lost[0]}, which failed"
        else:
            started = time.monotonic()
            try:
                run_cell(cell, workdir)
            # Independent runs continue after any error.
            except Exception as error:
                if jax.process_count() > 1:  # other processes may not have failed
                    raise
                failed[cell.evaluation] = describe(error)
            else:
                seconds = time.monotonic() - started
                took.setdefault(cell.config.model.name, []).append(seconds)
        if cell.evaluation in failed:
            logger.info(f"study: {cell.name}: {failed[cell.evaluation]}")
        jax.clear_caches()  # programs are not shared by runs
    return failed


def in_order(grid: Grid) -> list[Cell]:
    """Lists every run once, after those that it depends on."""
    found: dict[str, Cell] = {}
    for cell in grid.values():
        for needed in (*cell.ancestors(), cell):
            found.setdefault(needed.evaluation, needed)
    return list(found.values())


def training(study: ConfigDict) -> str:
    """Describes the training length of each base run."""
    bases = [role.base for arm in study.arms.values() for role in arm.runs.values()]
    said = []
    for base in dict.fromkeys(bases):
        section = study.runs[base].train
        # In the order of `optim.duration_steps`.
        for unit in ("steps", "examples", "epochs"):
            if (length := section[f"total_{unit}"]) is not None:
                said.append(f"{base} {length:g} {unit}")
                break
    return ", ".join(said)


def collect(study: ConfigDict, grid: Grid, workdir: Path) -> dict:
    """Collects every arm's metrics by column and seed; missing ones are left out."""
    rows = {}
    for arm, fields in study.arms.items():
        row = rows[arm] = {"label": fields.label, "values": {}}
        for name, column in study.columns.items():
            metric = column.metric.format(row=fields.row, whose=fields.whose)
            values = row["values"][name] = {}
            for seed in study.seeds:
                cell = grid.get((arm, column.run, seed))
                if cell and is_done(cell, workdir):
                    numbers = atomic_files.read_json(cell.results_file(workdir))["numbers"]
                    if metric in numbers:
                        values[str(seed)] = numbers[metric]
    return rows


def devices(cells: Iterable[Cell], workdir: Path) -> str:
    """Names the devices that the runs were trained on, not those that write the table."""
    metas = (newest_meta(cell.folder(workdir)) for cell in cells)
    found = {meta.get("device", "unknown") for _, meta in filter(None, metas)}
    return ", ".join(sorted(found)) or "no device"


def first_primary(folder: Path, primary: str) -> str:
    """Returns the primary column named when the study began, and records it then."""
    file = folder / "primary.json"
    if not file.exists():
        atomic_files.write_json(file, {"primary": primary})
    return atomic_files.read_json(file)["primary"]


def study(config: ConfigDict, workdir: str | Path) -> Path:
    """Runs or resumes a study and writes its table.

    Studies in one workdir share their runs, which are in `cells/`; a study's own folder
    holds `study.json`, `table.md`, `table.csv`, `figures/` and `primary.json`, the primary
    column that was named before the first run.

    Args:
      config: see `configs/studies.py`.
      workdir: folder of this and other studies.
    Returns:
      The study's own folder.
    Raises:
      UserError: for bad input, before the first run; at the end, if a run failed.
    """
    check_paths(config)
    make_grid(config)  # raises for an invalid config
    workdir = open_workdir(workdir)
    begun = sorted((workdir / CELLS).glob("*"))
    settle_dtype(config.runs.values(), begun)  # the type is part of the digests
    grid = make_grid(config)
    cells = in_order(grid)
    check(cells, workdir)
    folder = workdir / config.name
    folder.mkdir(exist_ok=True)
    first = first_primary(folder, config.primary)
    failed = run_cells(cells, workdir)
    some = next(iter(grid.values())).config
    found = {
        "name": config.name,
        "data": some.data.name,
        "seeds": list(config.seeds),
        "device": devices(cells, workdir),
        "training": training(config),
        "columns": {name: column.label for name, column in config.columns.items()},
        "primary": config.primary,
        "first_primary": first,
        "rows": collect(config, grid, workdir),
        "failed": {c.name: failed[c.evaluation] for c in cells if c.evaluation in failed},
    }
    if config.correlate:
        found["correlation"] = study_statistics.correlate(found, config.correlate)
    atomic_files.write_json(folder / "study_config.json", as_json(config))
    study_tables.write(found, folder)
    if failed:
        names = "; ".join(f"{name} ({why})" for name, why in found["failed"].items())
        raise UserError(f"{len(failed)} of {len(cells)} cells failed: {names}")
    return folder
