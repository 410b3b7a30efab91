"""Tables of the metrics in eval.json files, for terminal and report."""

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping

from imae_jax.evaluators.registry import all_evaluators
from imae_jax.evaluators.tables import Results, Table, cell, short
from imae_jax.models.branches import NUM_SOURCES, branch_names

# Evaluators whose tables come first; the others follow by name.
ORDER = (
    "reconstruction",
    "classification",
    "separability",
    "semantics",
    "attributes",
    "recognition",
    "probes",
    "segmentation",
)

# eval_settings.json of each run: {run: {metric: its settings}}.
Settings = Mapping[str, Mapping[str, Mapping]]


def measured_on(example: str, settings: Settings) -> str:
    """Describes the data that a metric was measured on, run by run where runs differ."""
    runs: dict[str, list[str]] = {}
    for run, found in settings.items():
        if example in found:
            runs.setdefault(_conditions(found[example]), []).append(run)
    if len(runs) < 2:
        return "".join(f" Measured on {conditions}." for conditions in runs)
    each = (f"{', '.join(names)}: on {conditions}" for conditions, names in runs.items())
    return f" Runs were measured differently: {'; '.join(each)}."


def _conditions(found: Mapping) -> str:
    what = "images" if found["alpha"] is None else "mixtures"
    words = [f"{found['count']} {what} of the {found['split']} split"]
    if found["alpha"] is not None:
        words.append(f"alpha {found['alpha']:g}")
    if found["mask_ratio"] is not None:
        words.append(f"mask ratio {found['mask_ratio']:g}")
    return ", ".join(words)


def all_tables(results: Results, settings: Settings) -> list[Table]:
    """All tables for which there are metrics: those of several runs, then run by run."""
    evaluators = all_evaluators()
    names = dict.fromkeys((*ORDER, *evaluators))
    made = [table for name in names for table in evaluators[name].tables(results)]
    made.sort(key=lambda table: ["", *results].index(table.run))
    made = [table for table in made if table.rows]
    titles = [table.title for table in made]
    found = []
    for table in made:
        own = {table.run: settings[table.run]} if table.run in settings else settings
        is_repeated = titles.count(table.title) > 1
        found.append(
            dataclasses.replace(
                table,
                title=f"{table.title} ({table.run})" if is_repeated else table.title,
                note=table.note + measured_on(table.example, own),
            )
        )
    return found


# Columns of the short table: a metric, and what it is without a model that has learned.
SHORT: dict[str, tuple[str, float | str]] = {
    "gain": ("separability/gain", 0.0),
    "error": ("reconstruction/ratio", 1.0),
    **{
        f"error, {short(branch)}": (f"reconstruction/{branch}/ratio", 1.0)
        for branch in branch_names(max(NUM_SOURCES))
    },
    "probe": (
        "probes/linear/class_token/accuracy",
        "probes/baselines/raw_pixels/linear/accuracy",
    ),
}


def short_table(results: Results) -> Table:
    """The main metrics of every run; without rows if there are none."""
    columns = {
        name: (key, null)
        for name, (key, null) in SHORT.items()
        if any(key in numbers for numbers in results.values())
    }

    def null_of(null: float | str) -> float | None:
        if isinstance(null, float):
            return null
        return next((n[null] for n in results.values() if null in n), None)

    rows = {"null": [null_of(null) for _, null in columns.values()]}
    for run, numbers in results.items():
        rows[run] = [numbers.get(key) for key, _ in columns.values()]
    return Table(
        "In short",
        "Null: pure superposition for the gain, the mean training image for the error on "
        "masked patches (relative to it), raw pixels for the linear probe.",
        list(columns),
        [
            (label, [cell(value) for value in row])
            for label, row in rows.items()
            if any(value is not None for value in row)
        ],
    )


def as_text(results: Results, settings: Settings, width: int) -> str:
    """Formats the short table, then all tables, as plain text.

    Args:
      results, settings: metrics of several runs, and how they were measured.
      width: characters in a line; further columns of a table stand below the first ones.
    """
    lines = []
    first = short_table(results)
    for table in [*([first] if first.rows else []), *all_tables(results, settings)]:
        lines += [table.title, textwrap.indent(textwrap.fill(table.note, 78), "  ")]
        lines += [*_in_columns(table, width), ""]
    return "\n".join(lines)


def _in_columns(table: Table, width: int) -> Iterator[str]:
    """Yields a table's lines: as many columns at a time as fit, each with all labels."""
    label_width = max(len(label) for label, _ in table.rows) + 2
    widths = [max(len(head), 5) + 3 for head in table.columns]
    start = 0
    while start < len(widths):
        stop = start + 1
        while (
            stop < len(widths) and 2 + label_width + sum(widths[start : stop + 1]) <= width
        ):
            stop += 1
        for label, cells in (("", table.columns), *table.rows):
            found = zip(cells[start:stop], widths[start:stop], strict=False)
            text = f"  {label:<{label_width}}" + "".join(f"{c:>{w}}" for c, w in found)
            yield text.rstrip()
        start = stop
