"""Studies: grids of runs, each one table with its spread over seeds.

    python main.py study --config=configs/studies.py:mask,shapes --workdir=runs/shapes

A study's `arms` are the rows of its table. An arm's `runs` say, by role, on which of the
study's `runs` the role is based and what it changes there; "run:ROLE" stands for the
workdir of that role's run in the same arm, with the same seed. `columns` say which number
of which role stands where; `primary` names the one that the study was made for, before it
was run. Grids: paper where it has them, their columns ours.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import ablations, datasets, imae, mae, transfer
from configs.study_parts import (
    ROW,
    WHOSE,
    arm,
    by_branch,
    column,
    finetune_column,
    keep_evals,
    mae_student,
    measure_students,
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
    measure_students(config)
    # The column that the study's sentences are about, and that decides what it shows.
    config.primary = "gain"
    # Two columns whose values are plotted against each other, an arm a point; (): none.
    config.correlate = ()
    STUDIES[name](config, dataset, runlocal)
    if dataset in ("cifar10", "cifar100", "tiny_imagenet") and not runlocal:
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
    config.runs.other_teacher = mae.get_config(dataset + runlocal)
    config.runs.other_teacher.seed = 1000  # added to the study's
    keep_evals(config.runs.other_teacher)
    # The same student against a teacher that it was not trained towards.
    config.runs.imae_by_other = config.runs.imae.copy_and_resolve_references()
    keep_evals(config.runs.imae_by_other, "separability")
    config.runs.imae_by_other.evals.separability.teacher = "run:other_teacher"
    metric = f"separability/{ROW}gain"
    column(config, "other_gain", "gain, other teacher", "imae_by_other", metric)
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
        "raw_pixels": ("raw pixels", "baselines/raw_pixels/", {}),
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
    if "attributes" not in all_evals(dataset, runlocal):
        raise ValueError(f"{dataset} has no factors but the class; the data set is shapes")
    config.runs.imae.evals.attributes = all_evals(dataset, runlocal).attributes
    config.runs.imae.evals.attributes.alphas = (config.runs.imae.evals.attributes.alpha,)
    config.primary = "label_subordinate"
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


def all_evals(dataset: str, runlocal: str) -> ConfigDict:
    """All evaluators of a data set's i-MAE run."""
    return imae.get_config(dataset + runlocal).evals


def semantics(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """The paper's second question: does mixing images of one class teach semantics?"""
    probe_columns(config, "student")
    finetune_column(config, dataset, runlocal)
    config.primary = "linear_class_token"
    column(config, "gain", "gain", "student", "separability/gain")
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


def mae_vs_imae(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Equal epochs from an equal start: a MAE trained further, and made an i-MAE."""
    mae_student(config, "start")
    mae_student(config, "mae")
    config.runs.mae.init = config.runs.imae.init = "run:teacher"
    probe_columns(config, "student")
    finetune_column(config, dataset, runlocal)
    config.primary = "linear_class_token"
    # An untrained encoder's latents are a row of every run's table.
    column(config, "gain", "gain", "student", f"separability/{ROW}gain")
    config.runs.scratch = transfer.get_config(f"{dataset},scratch{runlocal}")
    no_teacher = dict(loss=dict(distill_weight=0.0))
    some_clean = dict(mix=dict(clean_fraction=0.25))
    arms = {
        "mae": ("MAE, trained further", role("mae")),
        "imae": ("i-MAE", role("imae")),
        "imae_clean": ("i-MAE, 25% of pairs alone", role("imae", **some_clean)),
        "imae_without_distillation": (
            "i-MAE without distillation",
            role("imae", **no_teacher),
        ),
        "start": ("their start", role("start")),
    }
    for name, (label, student) in arms.items():
        roles = dict(student=student, finetune=role("finetune"))
        arm(config, name, label, teacher=role("teacher"), **roles)
    roles = dict(teacher=role("teacher"), student=role("start"), finetune=role("scratch"))
    arm(config, "scratch", "random weights", "baselines/random/", **roles)


def contrast(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Do probes gain if an image's roles are contrasted, or mixtures spread out?"""
    mae_student(config, "mae")
    probe_columns(config, "student")
    config.primary = "linear_class_token"
    column(config, "gain", "gain", "student", "separability/gain")
    # Ours, untuned; of uniformity U-MAE's (pretrain.sh).
    weights = dict(contrast_weight=0.1), dict(uniformity_weight=0.01)
    arms = {
        "imae": ("i-MAE", role("imae")),
        "contrast": ("with contrast", role("imae", loss=weights[0])),
        "uniformity": ("with uniformity", role("imae", loss=weights[1])),
        "both": ("with both", role("imae", loss=weights[0] | weights[1])),
        "mae": ("their teacher, a MAE", role("mae")),
    }
    for name, (label, student) in arms.items():
        arm(config, name, label, teacher=role("teacher"), student=student)


def separability_vs_probe(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Do separability and probe accuracy rise together? All arms of the other studies.

    Those of one mask ratio and one width, whose gains are comparable; without their
    fine-tuning. Runs that another study has trained in the same workdir are not repeated.
    """
    for name in ("distill_weight", "clean", "mae_vs_imae", "semantics"):
        other = ordered()
        other.runs, other.arms, other.columns = ordered(), ordered(), ordered()
        other.update(get_config(f"{name},{dataset}{runlocal}"))
        for arm_name, given in other.arms.items():
            student = given.runs.get("student") or given.runs.get("imae")
            if given.row or f"{name}/{arm_name}" in SEEN_ELSEWHERE:
                continue
            base = f"{name}_{student.base}"
            config.runs[base] = other.runs[student.base]
            change = student.change.to_dict()
            roles = dict(teacher=role("teacher"), student=dict(base=base, change=change))
            arm(config, f"{name}_{arm_name}", f"{name}: {given.label}", **roles)
    del config.runs.imae
    column(config, "gain", "gain", "student", "separability/gain")
    probe_columns(config, "student")
    config.correlate = ("gain", "linear_class_token")


# Arms that equal one of `distill_weight`.
SEEN_ELSEWHERE = ("clean/clean_0",)

STUDIES: dict[str, Callable[[ConfigDict, str, str], None]] = {
    "heads": ablations.heads,
    "distillation": distillation,
    "mae_vs_imae": mae_vs_imae,
    "contrast": contrast,
    "attributes": attributes,
    "mask": ablations.mask,
    "mask_kind": ablations.mask_kind,
    "semantics": semantics,
    "distill_weight": ablations.distill_weight,
    "clean": ablations.clean,
    "separability_vs_probe": separability_vs_probe,
    "mix": ablations.mix,
    "size": ablations.size,
    "sources": ablations.sources,
    "decoder": ablations.decoder,
    "branches": ablations.branches,
    "teacher_input": ablations.teacher_input,
}
