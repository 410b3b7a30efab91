"""Charts of runs over epochs: their losses, and what was measured in training."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from imae_jax.report.charts import COLOURS, GREY, STYLE, Chart, Line, draw

# Lines of metrics.jsonl, by run.
Runs = Mapping[str, Sequence[Mapping[str, float]]]

# Panels of what `evals.during_training` measures, by metric.
MEASURED = {
    "gain": "gain over superposition",
    "knn_accuracy": "k-NN accuracy",
    "effective_rank": "effective rank",
}


def losses(runs: Runs) -> Chart:
    """Chart of each run's losses over epochs, a panel per run."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4 * len(runs), 3.6), layout="constrained")
        axes = figure.subplots(1, len(runs), squeeze=False)[0]
        for axis, (title, metrics) in zip(axes, runs.items(), strict=True):
            names = sorted({key for line in metrics for key in line if key[:5] == "loss/"})
            # The total of a single loss is redundant.
            names = [name for name in names if name != "loss/total" or len(names) > 2]
            for name in names:
                points = [(line["epoch"], line[name]) for line in metrics if name in line]
                label = name.removeprefix("loss/").replace("_", ", ")
                axis.plot(*zip(*points, strict=True), label=label, lw=1)
            axis.set(title=title, xlabel="epoch", ylabel="loss", yscale="log")
            axis.grid(alpha=0.25)
            if names:
                below = dict(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
                axis.legend(fontsize=8, **below)
    return Chart("Losses", "Logarithmic scale, which every run has its own of.", figure)


def measured(runs: Runs) -> Iterator[Chart]:
    """Yields a chart of what was measured in training, a line per run, if anything was."""
    panels: dict[str, dict[str, Line]] = {}
    for metric, title in MEASURED.items():
        for (run, lines), colour in zip(runs.items(), itertools.cycle(COLOURS)):
            name = f"during_training/{metric}"
            if points := [(line["epoch"], line[name]) for line in lines if name in line]:
                panels.setdefault(title, {})[run] = Line(points, colour)
    if gains := panels.get(MEASURED["gain"]):
        epochs = sorted(x for line in gains.values() for x, _ in line.points)
        gains["superposition"] = Line([(x, 0.0) for x in epochs], GREY, "--")
    if panels:
        figure, values = draw(panels, "", "epoch", sharey=False)
        note = "On few images, as evals.during_training says."
        yield Chart("Measured in training", note, figure, values=values)
