"""Parts that studies are made of: arms of runs, and columns of their tables."""

from ml_collections import ConfigDict

from configs import transfer

# Stand in a metric for an arm's row in an evaluator's table, and for whose latents tell.
ROW, WHOSE = "{row}", "{whose}"
BRANCHES = {"subordinate": "sub.", "dominant": "dom."}
# Of up to four images.
MORE_BRANCHES = {
    "subordinate": "sub.",
    "middle_1": "mid. 1",
    "middle_2": "mid. 2",
    "dominant": "dom.",
}


def ordered() -> ConfigDict:
    """An empty ConfigDict that keeps the order of its fields."""
    return ConfigDict(sort_keys=False)


def role(base: str, **change) -> dict:
    """A run of an arm: the study's run that it is based on, and what it changes there."""
    return dict(base=base, change=change)


def arm(
    config: ConfigDict, name: str, label: str, row: str = "", whose: str = "", **roles: dict
) -> None:
    """Adds a row to the table."""
    config.arms[name] = ordered()
    config.arms[name].label = label  # name of the row in the table
    # Replaces {row} in the columns' metrics: the row of an evaluator's table.
    config.arms[name].row = row
    # Replaces {whose} in the columns' metrics: whose latents are probed.
    config.arms[name].whose = whose
    config.arms[name].runs = ordered()
    for part, given in roles.items():
        config.arms[name].runs[part] = ConfigDict()
        # The study's run that this one is based on.
        config.arms[name].runs[part].base = given["base"]
        # Values in which this run differs from its base.
        config.arms[name].runs[part].change = given["change"]


def column(config: ConfigDict, name: str, label: str, run: str, metric: str) -> None:
    """Adds a column: a number of the run that has this role in an arm."""
    config.columns[name] = ordered()
    config.columns[name].label = label  # name of the column in the table
    config.columns[name].run = run  # role, in each arm, of the run that is scored
    config.columns[name].metric = metric  # the number, by its name in eval.json


def by_branch(
    config: ConfigDict,
    name: str,
    label: str,
    run: str,
    metric: str,
    branches: dict[str, str] = BRANCHES,
) -> None:
    """Adds a column for each branch; `metric` has `{branch}`."""
    for branch, short in branches.items():
        full = metric.replace("{branch}", branch)
        column(config, f"{name}_{branch}", f"{label}, {short}", run, full)


def keep_evals(config: ConfigDict, *names: str) -> None:
    """Leaves a run only these evaluators, without their sweeps."""
    for name in list(config.evals):
        if name not in names:
            del config.evals[name]
        elif "alphas" in config.evals[name]:
            config.evals[name].alphas = (config.evals[name].alpha,)


def measure_students(config: ConfigDict) -> None:
    """Leaves every run that is pre-trained the same evaluators, separability and probes.

    Teachers are measured as students only, where they have this role.
    """
    keep_evals(config.runs.imae, "reconstruction", "separability", "semantics", "probes")
    keep_evals(config.runs.teacher)


def mae_student(config: ConfigDict, name: str) -> None:
    """Adds a run of the teacher's config that is measured: separability and probes."""
    run = config.runs[name] = config.runs.teacher.copy_and_resolve_references()
    run.evals.separability = config.runs.imae.evals.separability
    run.evals.separability.teacher = "run:teacher"
    run.evals.probes = config.runs.imae.evals.probes


def separation_columns(
    config: ConfigDict, run: str = "imae", branches: dict[str, str] = BRANCHES
) -> None:
    """Adds columns of separation: of latents, pixels and classes."""
    latents, ratio = f"separability/{ROW}", f"reconstruction/{ROW}{{branch}}/ratio"
    column(config, "gain", "gain", run, latents + "gain")
    for name, label, metric in (
        ("r2", "R2", latents + "{branch}/r2"),
        ("excess", "excess", latents + "{branch}/excess"),
        ("component_r2", "by component", latents + "{branch}/component_r2"),
        ("cross_r2", "cross R2", latents + "{branch}/cross_r2"),
    ):
        by_branch(config, name, label, run, metric, branches)
    metric = latents + "assignment_accuracy"
    column(config, "assignment", "assignment accuracy", run, metric)
    by_branch(config, "error", "error", run, ratio, branches)
    metric = f"semantics/{ROW}{{branch}}/accuracy"
    by_branch(config, "class", "class", run, metric, branches)


def probe_columns(config: ConfigDict, run: str) -> None:
    """Adds columns of probes: classes of whole images, from a frozen encoder."""
    for name, label in (("linear", "LARS probe"), ("ridge", "ridge"), ("knn", "k-NN")):
        for pool, short in (("class_token", "class token"), ("mean", "mean")):
            metric = f"probes/{ROW}{name}/{pool}/accuracy"
            column(config, f"{name}_{pool}", f"{label}, {short}", run, metric)


def finetune_column(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Adds a run that starts from the arm's student, and its column."""
    config.runs.finetune = transfer.get_config(f"{dataset},finetune{runlocal}")
    config.runs.finetune.init = "run:student"
    metric = "classification/mean/accuracy"
    column(config, "finetune", "fine-tuned", "finetune", metric)
