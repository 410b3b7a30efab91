"""Charts of what was measured in training, `evals.during_training`, over epochs."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from imae_jax.report.charts import COLOURS, GREY, Chart, Line, draw

# Lines of metrics.jsonl, by run.
Runs = Mapping[str, Sequence[Mapping[str, float]]]

# Panels of what `evals.during_training` measures, by metric.
MEASURED = {
    "gain": "gain over superposition",
    "knn_accuracy": "k-NN accuracy",
    "effective_rank": "effective rank",
}


def measured(runs: Runs) -> Iterator[Chart]:
    """Yields a chart of what was measured in training, a line per run, if anything was."""
    panels: dict[str, dict[str, Line]] = {}
    for metric, title in MEASURED.items():
        for (run, lines), colour in zip(runs.items(), itertools.cycle(COLOURS)):
            name = f"during_training/{metric}"
            if points := [(line["epoch"], line[name]) for line in lines if name in line]:
                panels.setdefault(title, {})[run] = Line(points, colour)
    if gains := panels.get(MEASURED["gain"]):
        epochs = sorted({x for line in gains.values() for x, _ in line.points})
        gains["superposition"] = Line([(x, 0.0) for x in epochs], GREY, "--")
    if panels:
        figure, values = draw(panels, "", "epoch", sharey=False)
        note = (
            "On few images, see evals.during_training. Where a data set publishes two "
            "splits only, validation images are among those that were trained on."
        )
        yield Chart("Measured in training", note, figure, values=values)
