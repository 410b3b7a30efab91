"""Line charts as SVG in the page's colours, and tables of their values."""

import dataclasses
import html
import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from imae_jax.evaluators.tables import Numbers, Table, branches_of, cell

# Placeholder for the text colour, replaced by the page's in the SVG.
INK = "#010203"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "imae_jax",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
} | dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
)
# Legible on white and on black.
ORANGE, BLUE, GREEN, PURPLE = COLOURS = ("#e8590c", "#1c7ed6", "#2b8a3e", "#9c36b5")
GREY = "#868e96"
ALPHA = "alpha, weight of the subordinate image"
MOST_COLUMNS = 3  # of panels
PANEL_WIDTH = 4.4  # inches

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Line:
    """A line through points (x, y) with its colour and style."""

    points: Points
    colour: str
    style: str = "-"


def as_svg(figure: Figure, name: str, values: Sequence[str] = ()) -> str:
    """Converts a figure to SVG for a page.

    Args:
      figure: its points have the group ids `point_0`, `point_1`, ...
      name: prefix of its ids, unique in the page.
      values: what a reader sees who points at each of those points.
    """
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue().replace(INK, "currentColor")
    text = text[text.index("<svg") :]  # without the XML declaration
    for n, value in enumerate(values):
        group = f'<g id="point_{n}">'
        text = text.replace(group, f"{group}<title>{html.escape(value)}</title>")
    text = re.sub(r'\bid="', f'id="{name}_', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\1{name}_", text)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure with title, explanation and values.

    Attributes:
      title: heading.
      note: explanation of the figure.
      figure: the figure.
      tables: the plotted values.
      values: text of each point that is marked, see `as_svg`.
    """

    title: str
    note: str
    figure: Figure
    tables: Sequence[Table] = ()
    values: Sequence[str] = ()

    @property
    def is_narrow(self) -> bool:
        """True for a figure of one panel, which is not to fill the page's width."""
        return self.figure.get_figwidth() <= PANEL_WIDTH

    def svg(self, name: str) -> str:
        """SVG of the figure, see `as_svg`."""
        return as_svg(self.figure, name, self.values)


def draw(
    panels: Mapping[str, Mapping[str, Line]], ylabel: str, xlabel: str, sharey: bool = True
) -> tuple[Figure, list[str]]:
    """Draws a panel per title, up to three in a row, with a shared legend below.

    Args:
      panels: lines by label, by title.
      ylabel, xlabel: names of the axes.
      sharey: whether all panels have one scale.
    Returns:
      The figure, and the text of each of its points.
    """
    values: list[str] = []
    with matplotlib.rc_context(STYLE):
        columns = min(len(panels), MOST_COLUMNS)
        rows = math.ceil(len(panels) / columns)
        figure = Figure(figsize=(PANEL_WIDTH * columns, 3.6 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        shown = {}
        for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
            for label, line in lines.items():
                xs, ys = zip(*line.points, strict=True)
                drawn = dict(color=line.colour, ms=3)
                (shown[label],) = axis.plot(xs, ys, line.style, lw=1.6, **drawn)
                for x, y in line.points:
                    axis.plot(x, y, "o", gid=f"point_{len(values)}", **drawn)
                    values.append(f"{label}: {y:.3f} at {x:g}")
            axis.set(title=title, xlabel=xlabel)
            axis.grid(alpha=0.25)
        for axis in axes[:, 0]:
            axis.set_ylabel(ylabel)
        figure.legend(
            shown.values(), shown.keys(), loc="outside lower center", ncols=3, fontsize=9
        )
    return figure, values


def sweep(numbers: Numbers, evaluator: str, name: str) -> Points:
    """Returns (alpha, value) of `<evaluator>/alpha_<alpha>/<name>`, sorted by alpha."""
    form = re.compile(rf"{re.escape(evaluator)}/alpha_([\d.]+)/{re.escape(name)}")
    found = ((form.fullmatch(key), value) for key, value in numbers.items())
    return sorted((float(match[1]), value) for match, value in found if match)


def _charts(
    title: str, note: str, panels: Mapping[str, Mapping[str, Line]], ylabel: str
) -> Iterator[Chart]:
    """Yields a chart of lines over alpha, if there are any points."""
    panels = {
        panel: {label: line for label, line in lines.items() if line.points}
        for panel, lines in panels.items()
    }
    panels = {panel: lines for panel, lines in panels.items() if lines}
    if not panels:
        return
    tables = []
    for panel, lines in panels.items():
        alphas = sorted({x for line in lines.values() for x, _ in line.points})
        rows = [
            (label, [cell(dict(line.points).get(alpha)) for alpha in alphas])
            for label, line in lines.items()
        ]
        columns = [f"{alpha:.2f}" for alpha in alphas]
        tables.append(Table(panel, f"{ylabel}, {panel}, by alpha", columns, rows))
    xlabel = ALPHA if "middle_1" not in panels else "alpha, least to largest weight"
    figure, values = draw(panels, ylabel, xlabel)
    yield Chart(title, note, figure, tables, values)


def _level(value: float | None, like: Points) -> Points:
    """Returns a constant line with the x of `like`."""
    return [] if value is None else [(x, value) for x, _ in like]


def separability(numbers: Numbers, run: str) -> Iterator[Chart]:
    """Chart of each branch's R2 and the gain over alpha, with null and baselines."""
    rows = {
        run: ("", ORANGE),
        "i-MAE without distillation": ("baselines/without_distillation/", GREEN),
        "MAE, shown the mixture": ("baselines/mae_on_mixture/", BLUE),
        "random weights": ("baselines/random/", GREY),
        "raw pixels": ("baselines/raw_pixels/", PURPLE),
    }
    panels, branches = {}, branches_of(numbers)
    for panel, metric in (*((b, f"{b}/r2") for b in branches), ("gain", "gain")):
        panels[panel] = {
            label: Line(sweep(numbers, "separability", row + metric), colour)
            for label, (row, colour) in rows.items()
        }
    for branch in branches:
        null = sweep(numbers, "separability", f"{branch}/r2_null")
        panels[branch]["superposition (null)"] = Line(null, INK, "--")
        cross = sweep(numbers, "separability", f"{branch}/cross_r2")
        panels[branch][f"{run}, cross"] = Line(cross, ORANGE, ":")
    level = _level(0.0, sweep(numbers, "separability", "gain"))
    panels["gain"]["superposition (null)"] = Line(level, INK, "--")
    yield from _charts(
        "Separability over alpha",
        "R2 of the linear map to the teacher's latents of each image alone, and the gain "
        "of both over superposition (dashed). Dotted: how much the branch also tells of "
        "the other image: 0 if it kept to its own.",
        panels,
        "R2, gain",
    )


def gains(encoders: Mapping[str, Mapping[str, Points]]) -> Figure:
    """Draws the gain over alpha, a panel an encoder, beside its controls and the null.

    Args:
      encoders: (alpha, gain) by control, "" being the encoder itself, by encoder.
    """
    looks = itertools.cycle(((BLUE, ":"), (GREEN, "-."), (PURPLE, "--"), (GREY, ":")))
    controls = dict.fromkeys(name for lines in encoders.values() for name in lines if name)
    look = {"": (ORANGE, "-")} | dict(zip(controls, looks, strict=False))
    panels = {}
    for encoder, lines in encoders.items():
        drawn = {name or "the encoder": Line(lines[name], *look[name]) for name in lines}
        level = _level(0.0, lines[""])
        panels[encoder] = drawn | {"superposition (null)": Line(level, INK, "--")}
    return draw(panels, "gain", ALPHA)[0]


def semantics(numbers: Numbers, run: str) -> Iterator[Chart]:
    """Chart of probe accuracies over alpha."""
    panels = {}
    for branch in branches_of(numbers):
        own = sweep(numbers, "semantics", f"{branch}/accuracy")
        other = sweep(numbers, "semantics", f"{branch}/other_branch_accuracy")
        mae = sweep(numbers, "semantics", f"baselines/mae_on_mixture/{branch}/accuracy")
        random = sweep(numbers, "semantics", f"baselines/random/{branch}/accuracy")
        alone = numbers.get(f"semantics/teacher_on_image/{branch}/accuracy")
        chance = numbers.get("semantics/chance")
        panels[branch] = {
            f"{run}, own branch": Line(own, ORANGE),
            f"{run}, other branch": Line(other, ORANGE, ":"),
            "MAE, shown the mixture": Line(mae, BLUE),
            "random weights": Line(random, GREY),
            "teacher, shown the image alone": Line(_level(alone, own), PURPLE, "--"),
            "majority class": Line(_level(chance, own), GREY, "--"),
        }
    yield from _charts(
        "Class from the latents, over alpha",
        "Accuracy of a linear probe that names each branch's image, on mixtures of two "
        "different classes.",
        panels,
        "accuracy",
    )


def quality(numbers: Numbers, run: str) -> Iterator[Chart]:
    """Charts of PSNR and SSIM over alpha, a line per mask ratio."""
    form = r"quality/alpha_[\d.]+/mask_([\d.]+)/"
    ratios = sorted(set(re.findall(form, " ".join(numbers))))
    for metric, ylabel in (("psnr", "PSNR in dB"), ("ssim", "SSIM")):
        panels = {}
        for branch in branches_of(numbers):
            lines = {
                f"{run}, mask ratio {ratio}": Line(
                    sweep(numbers, "quality", f"mask_{ratio}/{branch}/{metric}"), colour
                )
                for ratio, colour in zip(ratios, itertools.cycle(COLOURS), strict=False)
            }
            mixture = sweep(numbers, "quality", f"baselines/mixture/{branch}/{metric}")
            mean = numbers.get(f"quality/baselines/train_mean/{branch}/{metric}")
            lines["the mixture itself"] = Line(mixture, GREY, "--")
            lines["the mean training image"] = Line(_level(mean, mixture), GREY, ":")
            panels[branch] = lines
        yield from _charts(
            f"{metric.upper()} of the reconstructions",
            "Every patch as predicted when it was masked; the mixture itself hides "
            "nothing. Higher is better.",
            panels,
            ylabel,
        )


def training(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Chart:
    """Chart of each run's losses over epochs, a panel per run."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PANEL_WIDTH * len(runs), 3.6), layout="constrained")
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
