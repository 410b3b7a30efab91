"""Each table of a report: which numbers stand in it, and how to read them.

Everywhere `results` are the numbers of several runs, by the run's name, and `numbers` those
of one of them.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from imae_jax.objectives.mixing import BRANCHES

Numbers = Mapping[str, float]
Results = Mapping[str, Numbers]

ROWS = {
    "": "{run}",
    "baselines/without_distillation/": "i-MAE without distillation",
    "baselines/mae_on_mixture/": "MAE, shown the mixture",
    "baselines/mae_on_mixture_tokens/": "MAE, shown the mixture (tokens)",
    "baselines/teacher/": "its teacher",
    "baselines/random/": "random weights",
    "baselines/random_tokens/": "random weights (tokens)",
    "teacher_on_image/": "its teacher, shown the image alone",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, a sentence on how to read it, column heads, and labelled rows of cells.

    Attributes:
      run: the run it is about, whose row comes first; empty if it is about several.
      is_control: whether it only backs up another table.
      example: a key of its numbers, which stands for what all were measured on.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: list[tuple[str, list[str]]]
    run: str = ""
    is_control: bool = False
    example: str = ""


def cell(value: float | None) -> str:
    """A number as every table shows it."""
    return "–" if value is None else f"{value:.3f}"


def _rows(numbers: Numbers, labels: Mapping[str, Sequence[str]]):
    """Rows of the given keys, those without any number left out."""
    return [
        (label, [cell(numbers.get(key)) for key in keys])
        for label, keys in labels.items()
        if any(key in numbers for key in keys)
    ]


def _baseline_rows(numbers: Numbers, run: str, keys: Sequence[str]):
    """A row for each of ROWS; `keys` have `{row}` where its prefix goes."""
    labels = {
        label.format(run=run): [key.format(row=row) for key in keys]
        for row, label in ROWS.items()
    }
    return _rows(numbers, labels)


ERROR_NOTE = (
    "Squared error on the patches the encoder did not see, in the units that were "
    "predicted (the data set's variance; with loss.norm_pix each patch's own), and as a "
    "share of what the mean training image scores. Lower is better."
)


def rebuilding_one(results: Results) -> Table:
    """What MAE runs rebuild of one image."""
    rows = []
    for run, numbers in results.items():
        keys = ["reconstruction/mse", "reconstruction/ratio"]
        if not rows:
            mean = {"the mean training image": ["reconstruction/mse_train_mean"]}
            rows += [(label, [*cells, "1.000"]) for label, cells in _rows(numbers, mean)]
        rows += _rows(numbers, {run: keys})
    title, columns = "Rebuilding one image", ("error", "share")
    return Table(title, ERROR_NOTE, columns, rows, example="reconstruction/mse")


def rebuilding_both(results: Results) -> Table:
    """What i-MAE runs rebuild of both images of a mixture."""
    rows = []
    for run, numbers in results.items():
        if not rows:
            keys = [f"reconstruction/{branch}/mse_train_mean" for branch in BRANCHES]
            for label, cells in _rows(numbers, {"the mean training image": keys}):
                shares = ("–" if c == "–" else "1.000" for c in cells)
                pairs = zip(cells, shares, strict=True)
                rows.append((label, [x for pair in pairs for x in pair]))
        keys = [
            f"reconstruction/{branch}/{metric}"
            for branch in BRANCHES
            for metric in ("mse", "ratio")
        ]
        rows += _rows(numbers, {run: keys})
    columns = [head for branch in BRANCHES for head in (branch, "share")]
    title, example = "Rebuilding both images from their mixture", "subordinate/mse"
    return Table(title, ERROR_NOTE, columns, rows, example=f"reconstruction/{example}")


def separability(numbers: Numbers, run: str) -> Iterator[Table]:
    """R2 of every row and branch; then what keeps it honest."""
    keys = [
        f"separability/{{row}}{branch}/{metric}"
        for metric in ("r2", "cross_r2")
        for branch in BRANCHES
    ]
    keys.append("separability/{row}assignment_accuracy")
    yield Table(
        "Linear separability",
        "R2 of the best linear map from a branch's latents of the mixture to what the "
        "teacher makes of that branch's image alone; what the position alone tells is "
        "taken out first. 1 is perfect, 0 is nothing. Cross: the same for the other image, "
        "where a branch that keeps to its own scores 0. Which is which: share of mixtures "
        "whose two latents are nearer to their own images' than exchanged; chance is 0.5.",
        (*BRANCHES, "cross, sub.", "cross, dom.", "which is which"),
        _baseline_rows(numbers, run, keys),
        run=run,
        example=keys[0].format(row=""),
    )
    controls = {
        "linear map (as above)": "{branch}/r2",
        "linear map, positions not taken out": "{branch}/r2_uncentred",
        "position alone, not taken out": "position_only/{branch}/r2_uncentred",
        "latents as they are, no map": "{branch}/raw_r2",
        "linear map: squared distance M_ls": "{branch}/mse",
        "no map: squared distance": "{branch}/raw_mse",
    }
    rows = {
        label: [f"separability/{key.format(branch=branch)}" for branch in BRANCHES]
        for label, key in controls.items()
    }
    yield Table(
        "Linear separability: controls",
        "R2, and what is left in the end as squared distance per token and channel. "
        "Latents are told apart by their position to begin with, which is why a table "
        "that did not take it out would flatter every network.",
        BRANCHES,
        _rows(numbers, rows),
        run=run,
        is_control=True,
        example=rows["linear map (as above)"][0],
    )


def semantics(numbers: Numbers, run: str) -> Table:
    """Accuracy of a probe on each branch."""
    keys = [
        f"semantics/{{row}}{branch}/{metric}"
        for metric in ("accuracy", "other_branch_accuracy")
        for branch in BRANCHES
    ]
    rows = _baseline_rows(numbers, run, keys)
    rows += _rows(numbers, {"the commonest class": ["semantics/chance"] * 2})
    return Table(
        "Class of each image, from latents of the mixture",
        "Accuracy of a linear probe that names a branch's image from that branch's "
        "latents, and (other) from the other branch's. Mixtures of two classes only.",
        (*BRANCHES, "other, sub.", "other, dom."),
        [(label, cells + ["–"] * (4 - len(cells))) for label, cells in rows],
        run=run,
        example=keys[0].format(row=""),
    )


def recognition(numbers: Numbers, run: str) -> Table:
    """How often reconstructions are read right."""
    rows = {
        f"{run}: what it rebuilt": "recognition/{branch}/accuracy",
        "the mixture itself": "recognition/baselines/mixture/{branch}/accuracy",
        "the mixture, by a classifier trained on mixtures": (
            "recognition/baselines/mixture_classifier/{branch}/accuracy"
        ),
        "the clean image": "recognition/clean_accuracy",
    }
    labels = {
        label: [key.format(branch=branch) for branch in BRANCHES]
        for label, key in rows.items()
    }
    return Table(
        "Class of each image, read from its reconstruction",
        "Accuracy of a classifier that was trained on clean images only (except where "
        "said). Mixtures of two different classes only.",
        BRANCHES,
        _rows(numbers, labels),
        run=run,
        example=f"recognition/{BRANCHES[0]}/accuracy",
    )


def probes(numbers: Numbers, run: str) -> Table:
    """Accuracies of every probe and network."""
    heads = {
        f"{probe}, {pool}": f"{probe}/{pool}/"
        for pool in ("class token", "mean")
        for probe in ("linear", "ridge", "knn")
    }
    keys = [f"probes/{{row}}{key.replace(' ', '_')}accuracy" for key in heads.values()]
    rows = _baseline_rows(numbers, run, keys)
    pixels = [
        f"probes/baselines/raw_pixels/{p}/accuracy" for p in ("linear", "ridge", "knn")
    ]
    rows += _rows(numbers, {"raw pixels, no network": pixels * 2})
    rows += _rows(numbers, {"the commonest class": ["probes/chance"] * len(heads)})
    return Table(
        "Class of whole images, from the frozen encoder",
        "Accuracy of MAE's linear probe (LARS), of ridge regression and of the nearest "
        "neighbours, on the class token and on the mean of the patch tokens; no mask, no "
        "mixture.",
        tuple(heads),
        rows,
        run=run,
        example=keys[0].format(row=""),
    )


def classification(results: Results) -> Table:
    """What classifiers name right: a row for each run's pools."""
    columns, rows, example = ("accuracy", "top-5 accuracy", "loss"), [], ""
    for run, numbers in results.items():
        for pool in ("class token", "mean"):
            key = f"classification/{pool.replace(' ', '_')}/"
            keys = [f"{key}{name}" for name in ("accuracy", "top5_accuracy", "loss")]
            found = _rows(numbers, {f"{run}, {pool}": keys})
            example = example or (keys[0] if found else "")
            rows += found
        chance = {f"{run}, the commonest class": ["classification/chance"]}
        rows += [(label, [*cells, "–", "–"]) for label, cells in _rows(numbers, chance)]
    return Table(
        "Class of whole images, by trained classifiers",
        "A linear probe, fine-tuning, or training from scratch, on the class token or the "
        "mean of the patch tokens; no mask, no mixture. Cross-entropy as loss.",
        columns,
        rows,
        example=example,
    )


def representation(numbers: Numbers, run: str) -> Iterator[Table]:
    """CKA by layer; effective ranks."""
    layers = sorted(
        name.removeprefix("representation/cka/")
        for name in numbers
        if name.startswith("representation/cka/")
    )
    keys = [f"representation/{{row}}cka/{layer}" for layer in layers]
    yield Table(
        "Likeness to the teacher, layer by layer",
        "Linear CKA of the mean patch token after each block, on whole images: 1 for "
        "representations that are equal up to rotation and scale.",
        [layer.replace("_", " ") for layer in layers],
        _baseline_rows(numbers, run, keys),
        run=run,
        is_control=True,
        example=keys[0].format(row="") if keys else "",
    )
    ranks = {
        f"{run}, {branch} branch": [f"representation/effective_rank/{branch}"]
        for branch in BRANCHES
    }
    ranks[ROWS["teacher_on_image/"]] = [
        "representation/baselines/teacher_on_image/effective_rank"
    ]
    yield Table(
        "Directions in use",
        "Effective rank of the latents: how many directions they would fill evenly.",
        ("effective rank",),
        _rows(numbers, ranks),
        run=run,
        is_control=True,
        example=f"representation/effective_rank/{BRANCHES[0]}",
    )
