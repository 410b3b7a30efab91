"""Commands of main.py, each a function of its flags that logs or prints its result.

Modules that load JAX are imported inside the functions, so help and errors are fast.
"""

import logging
from collections.abc import Callable, Mapping
from types import SimpleNamespace

from ml_collections import ConfigDict

from imae_jax.storage.local_paths import local_path

logger = logging.getLogger(__name__)


def demo(given: SimpleNamespace) -> None:
    """Runs the whole pipeline; prints the tables and the report's path."""
    from imae_jax.commands import demo
    from imae_jax.report import page

    report = demo.demo(given.config, given.workdir)
    logger.info(f"\n{page.read_as_text(given.workdir)}\nReport: {report}")


def describe_data(given: SimpleNamespace) -> None:
    """Prepares a data set and prints its description."""
    from imae_jax.commands import describe_data

    logger.info(describe_data.describe(given.config, given.workdir))


def train(given: SimpleNamespace) -> None:
    """Trains a run."""
    from imae_jax.commands.command_flags import parse_steps
    from imae_jax.training.loop import train

    steps = parse_steps(given.profile, "--profile") if given.profile else None
    train(given.config, given.workdir, profile=steps)
    logger.info(
        f"Trained: {given.workdir}\nNext: python main.py eval --workdir={given.workdir}"
    )


def evaluate(given: SimpleNamespace) -> None:
    """Evaluates a run and prints its tables."""
    from imae_jax import evaluation
    from imae_jax.report import page

    incomplete = None
    try:
        evaluation.evaluate(given.config, given.workdir)
    except evaluation.Incomplete as error:
        incomplete = error
    logger.info(
        f"\n{page.read_as_text(given.workdir)}\n"
        f"Next: python main.py report --workdir={given.workdir}"
    )
    if incomplete:
        raise incomplete


def study(given: SimpleNamespace) -> None:
    """Runs a study; prints its table and folder."""
    from imae_jax.commands import study

    folder = study.study(given.config, given.workdir)
    table = (folder / "table.md").read_text("utf-8")
    logger.info(f"\n{table}\nTable and picture: {folder}")


def report(given: SimpleNamespace) -> None:
    """Writes the report and prints its path."""
    from imae_jax.report import page

    logger.info(page.write_report(given.workdir))


def export_weights(given: SimpleNamespace) -> None:
    """Exports a run's weights and prints a summary."""
    from imae_jax.interop.export_weights import export

    logger.info(export(given.workdir, given.format, given.out, given.dtype, given.step))


def import_weights(given: SimpleNamespace, presets: Mapping[str, ConfigDict]) -> None:
    """Converts a weights file to a run and prints a description."""
    from imae_jax.interop.import_weights import import_file

    names = ("image_size", "num_heads", "decoder_num_heads", "norm_pix")
    options = {name: getattr(given, name) for name in names}
    logger.info(import_file(given.checkpoint, given.workdir, presets, **options))


def separability(given: SimpleNamespace, preset: Callable[[str], ConfigDict]) -> None:
    """Measures encoders and prints a table."""
    from imae_jax.commands import separability

    separability.measure(given, preset)


def plan_step(given: SimpleNamespace) -> None:
    """Compiles a training step; prints its memory, traffic and lower bound of time."""
    from imae_jax.aot import plan
    from imae_jax.storage import atomic_files

    found = plan.plan(given.config, given.topology)
    logger.info(plan.as_text(found))
    if given.json:
        atomic_files.write_json(local_path(given.json, "--json"), found)


def explain_config(given: SimpleNamespace) -> None:
    """Prints every key of a config."""
    from imae_jax.commands import config_reference

    logger.info(config_reference.describe(given.config, given.config_file))
