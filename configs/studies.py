"""Studies: grids of runs, each one table with its spread over seeds.

    python main.py study --config=configs/studies.py:mask,shapes --workdir=runs/shapes

A study's `arms` are the rows of its table. An arm's `runs` say, by role, on which of the
study's `runs` the role is based and what it changes there; "run:ROLE" stands for the
workdir of that role's run in the same arm, with the same seed. `columns` say which number
of which role stands where. Grids: paper where it has them, their columns ours.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import datasets, imae, mae, transfer
from configs.study_parts import (
    ROW,
    WHOSE,
    arm,
    by_branch,
    finetune_column,
    keep_evals,
    ordered,
    probe_columns,
    role,
    separation_columns,
)


def parse_arg(arg: str | None) -> tuple[str, str, str]:
    """ "NAME,DATASET[,runlocal]" -> (name, dataset, "" or ",runlocal")."""
    name, *rest = (arg or "").split(",", 1)
    if name not in STUDIES:
        raise ValueError(f"no study {name!r}; studies: {', '.join(STUDIES)}")
    dataset, runlocal = datasets.parse_arg(rest[0] if rest else None)
    return name, dataset, ",runlocal" if runlocal else ""


def get_config(arg: str | None = None) -> ConfigDict:
    """arg: NAME,DATASET[,runlocal]. Ours where no source is named."""
    name, dataset, runlocal = parse_arg(arg)
    config = ordered()
    config.name = name  # name of the study, and of its folder in the workdir
    config.seeds = (0, 1, 2)  # seeds of the study, each added to those of its runs
    config.runs, config.arms, config.columns = ordered(), ordered(), ordered()
    config.runs.teacher = mae.get_config(dataset + runlocal)
    config.runs.imae = imae.get_config(dataset + runlocal)
    config.runs.imae.teacher.init = "run:teacher"
    del config.runs.imae.explorer
    STUDIES[name](config, dataset, runlocal)
    if dataset in ("cifar10", "tiny_imagenet") and not runlocal:
        for run in config.runs.values():
            for_one_gpu(run)
    # The folder of the data, of all runs.
    config.data_dir = config.runs.teacher.data.dir
    for run in config.runs.values():
        run.data.dir = config.get_ref("data_dir")
    return config


def for_one_gpu(config: ConfigDict) -> None:
    """A run of a study of photographs, for a GPU that is lent for minutes. All: ours."""
    # The same for every arm; a quarter of what the data set's own preset takes.
    config.train.total_epochs = 30.0 if config.model.name == "classifier" else 100.0
    config.checkpoint.every_minutes = 1.0  # all that an interruption costs
    config.checkpoint.keep = 1  # what has to travel


def distillation(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """The paper's first question: are latents linearly separable, and by what merit?"""
    separation_columns(config)
    keep_evals(config.runs.teacher)
    config.runs.other_teacher = mae.get_config(dataset + runlocal)
    config.runs.other_teacher.seed = 1000  # added to the study's
    keep_evals(config.runs.other_teacher)
    # The same student against a teacher that it was not trained towards.
    config.runs.imae_by_other = config.runs.imae.copy_and_resolve_references()
    keep_evals(config.runs.imae_by_other, "separability")
    config.runs.imae_by_other.evals.separability.teacher = "run:other_teacher"
    metric = f"separability/{ROW}{{branch}}/r2"
    by_branch(config, "other_r2", "R2, other teacher", "imae_by_other", metric)
    arms = {
        "imae": ("i-MAE", "", {}),
        "without_distillation": (
            "i-MAE without distillation",
            "",
            dict(loss=dict(distill_weight=0.0)),
        ),
        "mae_on_mixture": ("MAE, shown the mixture", "baselines/mae_on_mixture/", {}),
        "random": ("random weights", "baselines/random/", {}),
    }
    for name, (label, row, change) in arms.items():
        arm(
            config,
            name,
            label,
            row,
            teacher=role("teacher"),
            other_teacher=role("other_teacher"),
            imae=role("imae", **change),
            imae_by_other=role("imae_by_other", **change),
        )


def attributes(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Which factors of each image its branch's latents still tell; ground truth: shapes."""
    if "attributes" not in config.runs.imae.evals:
        raise ValueError(f"{dataset} has no factors but the class; the data set is shapes")
    keep_evals(config.runs.teacher)
    keep_evals(config.runs.imae, "attributes")
    categories = ("label", "colour", "background")
    for name in (*categories, "size", "x", "y", "rotation"):
        metric = "accuracy" if name in categories else "r2"
        shown = "class" if name == "label" else name
        key = f"attributes/{ROW}{{branch}}/{name}/{WHOSE}{metric}"
        by_branch(config, name, shown, "imae", key)
    rows = {
        "own_branch": ("i-MAE, own branch", "", ""),
        "other_branch": ("i-MAE, the other branch", "", "other_branch_"),
        "mae_on_mixture": ("MAE, shown the mixture", "baselines/mae_on_mixture/", ""),
        "random": ("random weights", "baselines/random/", ""),
        "alone": ("the teacher, shown the image alone", "teacher_on_image/", ""),
    }
    roles = dict(teacher=role("teacher"), imae=role("imae"))
    for name, (label, row, whose) in rows.items():
        arm(config, name, label, row, whose, **roles)


def semantics(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """The paper's second question: does mixing images of one class teach semantics?"""
    keep_evals(config.runs.teacher)
    keep_evals(config.runs.imae, "reconstruction", "probes", "semantics")
    probe_columns(config)
    finetune_column(config, dataset, runlocal)
    metric = "semantics/{branch}/accuracy"
    by_branch(config, "class", "class in mixture", "student", metric)
    by_branch(config, "error", "error", "student", "reconstruction/{branch}/ratio")
    for rate in (0.0, 0.25, 0.5, 0.75, 1.0):
        # The rates: paper, version 2.
        arm(
            config,
            f"rate_{round(100 * rate)}",
            f"r = {rate:g}",
            teacher=role("teacher"),
            student=role("imae", mix=dict(same_class_rate=rate)),
            finetune=role("finetune"),
        )


def over_students(config: ConfigDict, changes: dict[str, tuple[str, dict]]) -> None:
    """An arm for each change of the i-MAE run, all taught by the same teacher."""
    separation_columns(config)
    keep_evals(config.runs.teacher)
    for name, (label, change) in changes.items():
        arm(config, name, label, teacher=role("teacher"), imae=role("imae", **change))


def mix(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """The alpha that students are trained on; all are measured at the same one."""
    changes = {"drawn": ("drawn per mixture", {})}
    for alpha in (0.1, 0.2, 0.3, 0.4, 0.5):
        name, label = f"alpha_{round(100 * alpha)}", f"alpha {alpha:g}"
        changes[name] = label, dict(mix=dict(alpha=alpha))
    over_students(config, changes)


def mask(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """The share of patches removed: of teacher, student and measurement alike."""
    separation_columns(config)
    keep_evals(config.runs.teacher)
    for ratio in (0.5, 0.6, 0.75, 0.9):
        change = dict(mask=dict(ratio=ratio))
        arm(
            config,
            f"mask_{round(100 * ratio)}",
            f"mask ratio {ratio:g}",
            teacher=role("teacher", **change),
            imae=role("imae", **change),
        )


def size(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """The encoder of teacher and student; the decoder stays."""
    separation_columns(config)
    keep_evals(config.runs.teacher)
    patch = config.runs.imae.model.variant.partition("/")[2]
    changes = {name: dict(variant=f"{name}/{patch}") for name in ("Ti", "S", "B")}
    width = config.runs.imae.model.encoder.width
    if width is not None:  # it counts, whatever the variant
        widths = (width // 2, width, 2 * width)
        changes = {f"width_{w}": dict(encoder=dict(width=w)) for w in widths}
    for name, change in changes.items():
        roles = {run: role(run, model=change) for run in ("teacher", "imae")}
        arm(config, name, name.replace("_", " "), **roles)


def branches(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Both images rebuilt, or only the weaker one as in the paper's first version."""
    labels = {"both": "both", "subordinate": "subordinate only"}
    changes = {k: (label, dict(loss=dict(branches=k))) for k, label in labels.items()}
    over_students(config, changes)


def teacher_input(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Shows the teacher each image alone, or, as released, the mixture."""
    labels = {"image": "each image alone", "mixture": "the mixture"}
    changes = {k: (label, dict(teacher=dict(input=k))) for k, label in labels.items()}
    over_students(config, changes)


def mae_vs_imae(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Equal epochs from an equal start: a MAE trained further, and made an i-MAE."""
    config.runs.mae = mae.get_config(dataset + runlocal)
    for run in ("teacher", "mae", "imae"):
        keep_evals(config.runs[run], "probes")
    config.runs.mae.init = config.runs.imae.init = "run:teacher"
    probe_columns(config)
    finetune_column(config, dataset, runlocal)
    config.runs.scratch = transfer.get_config(f"{dataset},scratch{runlocal}")
    arms = {
        "mae": ("MAE, trained further", role("mae")),
        "imae": ("i-MAE", role("imae")),
        "imae_without_distillation": (
            "i-MAE without distillation",
            role("imae", loss=dict(distill_weight=0.0)),
        ),
    }
    for name, (label, student) in arms.items():
        roles = dict(student=student, finetune=role("finetune"))
        arm(config, name, label, teacher=role("teacher"), **roles)
    roles = dict(student=role("teacher"), finetune=role("finetune"))
    arm(config, "start", "their start", **roles)
    roles = dict(student=role("teacher"), finetune=role("scratch"))
    arm(config, "scratch", "random weights", "baselines/random/", **roles)


STUDIES: dict[str, Callable[[ConfigDict, str, str], None]] = {
    "distillation": distillation,
    "attributes": attributes,
    "semantics": semantics,
    "mix": mix,
    "mask": mask,
    "size": size,
    "branches": branches,
    "teacher_input": teacher_input,
    "mae_vs_imae": mae_vs_imae,
}
