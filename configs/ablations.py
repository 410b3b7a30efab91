"""Studies that change one thing in the i-MAE run, or in teacher and i-MAE alike."""

from ml_collections import ConfigDict

from configs.study_parts import (
    MORE_BRANCHES,
    ROW,
    arm,
    by_branch,
    column,
    probe_columns,
    role,
    separation_columns,
)

# Widths of the variants (DeiT and ViT; mu: ours).
WIDTHS = {"mu": 32, "Ti": 192, "S": 384, "B": 768, "L": 1024}


def heads(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """The decoder's width E: a head of equal width is invertible, and drops nothing."""
    config.runs.imae.evals.separability.targets = ("latents", "tokens")
    metric = f"separability/to_tokens/{ROW}"
    # The teacher's latents change in width with E, its tokens [D] do not. Each arm has a
    # teacher of its own.
    column(config, "tokens_gain", "gain, tokens", "imae", metric + "gain")
    by_branch(config, "tokens_r2", "R2, tokens", "imae", metric + "{branch}/r2")
    metric += "{branch}/cross_r2"
    by_branch(config, "tokens_cross", "cross R2, tokens", "imae", metric)
    separation_columns(config)
    config.primary = "tokens_gain"
    width = encoder_width(config.runs.imae)
    for label, divisor in (("D / 2", 2), ("D", 1), ("D / 4", 4)):
        change = dict(model=dict(decoder=dict(width=width // divisor)))
        roles = {run: role(run, **change) for run in ("teacher", "imae")}
        arm(config, f"width_{width // divisor}", f"E = {label}", **roles)


def encoder_width(config: ConfigDict) -> int:
    """The width D of a run's encoder: its own, else its variant's."""
    variant = config.model.variant.partition("/")[0]
    return config.model.encoder.width or WIDTHS[variant]


def over_students(config: ConfigDict, changes: dict[str, tuple[str, dict]]) -> None:
    """An arm for each change of the i-MAE run, all taught by the same teacher."""
    separation_columns(config)
    probe_columns(config, "imae")
    for name, (label, change) in changes.items():
        arm(config, name, label, teacher=role("teacher"), imae=role("imae", **change))


def distill_weight(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """The weight of distillation beside reconstruction."""
    changes = {"weight_1": ("weight 1", {})}
    for weight in (0.0, 0.1, 10.0):
        name = f"weight_{weight:g}".replace(".", "_")
        changes[name] = f"weight {weight:g}", dict(loss=dict(distill_weight=weight))
    over_students(config, changes)


def clean(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Images shown alone among the mixtures: probes show the encoder nothing else."""
    changes = {"clean_0": ("all mixed", {})}
    for fraction in (0.25, 0.5):
        name, label = f"clean_{round(100 * fraction)}", f"{fraction:.0%} of pairs alone"
        changes[name] = label, dict(mix=dict(clean_fraction=fraction))
    over_students(config, changes)
    config.primary = "linear_class_token"


def mix(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """The alpha that students are trained on; all are measured at the same one."""
    changes = {"drawn": ("drawn per mixture", {})}
    for alpha in (0.1, 0.2, 0.3, 0.4, 0.5):
        name, label = f"alpha_{round(100 * alpha)}", f"alpha {alpha:g}"
        changes[name] = label, dict(mix=dict(alpha=alpha))
    over_students(config, changes)


def mask(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """The fraction of masked patches: of teacher, student and measurement alike."""
    separation_columns(config)
    for ratio in (0.5, 0.6, 0.75, 0.9):
        change = dict(mask=dict(ratio=ratio))
        arm(
            config,
            f"mask_{round(100 * ratio)}",
            f"mask ratio {ratio:g}",
            teacher=role("teacher", **change),
            imae=role("imae", **change),
        )


def mask_kind(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Masks of other kinds in the students' training; all are measured on random ones."""
    kinds = {
        "random": ("random", {}),
        "block": ("blocks", dict(kind="block")),
        "grid": ("grid", dict(kind="grid")),
        # Weights: ours, untuned.
        "detailed": ("mostly detailed", dict(kind="content", content_weight=1.0)),
        "flat": ("mostly flat", dict(kind="content", content_weight=-1.0)),
    }
    changes = {name: (label, dict(mask=mask)) for name, (label, mask) in kinds.items()}
    over_students(config, changes)


def size(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """The width of teacher and student; decoders are half as wide as their encoders."""
    separation_columns(config)
    patch = config.runs.imae.model.variant.partition("/")[2]
    changes = {
        name: dict(variant=f"{name}/{patch}", decoder=dict(width=WIDTHS[name] // 2))
        for name in ("Ti", "S", "B")
    }
    width = config.runs.imae.model.encoder.width
    if width is not None:  # it counts, whatever the variant
        changes = {
            f"width_{w}": dict(encoder=dict(width=w), decoder=dict(width=w // 2))
            for w in (width // 2, width, 2 * width)
        }
    for name, change in changes.items():
        roles = {run: role(run, model=change) for run in ("teacher", "imae")}
        arm(config, name, name.replace("_", " "), **roles)


def decoder(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Mask tokens that attend to each other, or to latents alone; all or half of them."""
    config.runs.imae.init = ""  # a start from the teacher would fix the decoder's kind
    cross = dict(model=dict(decoder=dict(attention="cross")))
    changes = {
        "full": ("self-attention", {}),
        "cross": ("cross-attention", cross),
        "cross_half": (
            "cross-attention, half of the masked patches",
            cross | dict(loss=dict(predict_fraction=0.5)),
        ),
    }
    over_students(config, changes)


def branches(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Both images rebuilt, or only the weaker one as in the paper's first version."""
    labels = {"both": "both", "subordinate": "subordinate only"}
    changes = {k: (label, dict(loss=dict(branches=k))) for k, label in labels.items()}
    over_students(config, changes)
    config.primary = "r2_subordinate"  # a gain needs both branches


def teacher_input(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Shows the teacher each image alone, or, as released, the mixture."""
    labels = {"image": "each image alone", "mixture": "the mixture"}
    changes = {k: (label, dict(teacher=dict(input=k))) for k, label in labels.items()}
    over_students(config, changes)


def sources(config: ConfigDict, dataset: str, runlocal: str) -> None:
    """Two, three and four images in a mixture, each beside its controls. All: ours.

    The same teacher, epochs, masks and alpha 0.3. An epoch has as many mixtures in each
    arm, since every image is once in each role.
    """
    separation_columns(config, branches=MORE_BRANCHES)
    # A multiple of 2, 3 and 4: the preset's, rounded down.
    config.runs.imae.train.batch_size = config.runs.imae.train.batch_size // 12 * 12
    controls = {
        "": "i-MAE",
        "mae_on_mixture": "MAE, shown the mixture",
        "random": "random weights",
    }
    for control, label in controls.items():
        row = f"baselines/{control}/" if control else ""
        for count, word in ((2, "two"), (3, "three"), (4, "four")):
            roles = dict(teacher=role("teacher"))
            roles["imae"] = role("imae", mix=dict(sources=count))
            name = f"{control or 'imae'}_{count}"
            arm(config, name, f"{label}: {word} images", row, **roles)
