"""Do a branch's latents say what *its* image is, and not what the other one is?

A linear probe (logistic regression), one per alpha, names an image's class from latents of
the mixture. Only mixtures of two different classes count: where both images are of one
class, either branch would do.
"""

from collections.abc import Iterator, Mapping, Sequence

from imae_jax.errors import UserError
from imae_jax.evaluators.evaluator import Evaluator
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.evaluators.pooled_latents import collect, prefixes, questions
from imae_jax.evaluators.tables import Results, Table, labelled_rows, network_rows
from imae_jax.objectives.mixing import BRANCHES
from imae_jax.probing.linear_classifiers import Labelled, Splits, chance, logistic_accuracy


def evaluate(
    networks: Mapping[str, Network],
    held_out: HeldOut,
    *,
    split: str,
    alpha: float,
    alphas: Sequence[float],
    batch_size: int,
    seed: int,
) -> Iterator[tuple[str, float]]:
    """How often a linear probe on a branch's latents names its image's class.

    Args:
      networks: `student` and `teacher`, and any of separability's baselines.
      held_out: makes the mixtures.
      split: what is scored; probes are fitted on `train`, their strength on `validation`.
      alpha: weight of the subordinate image.
      alphas: weights of the sweep, below `alpha_<weight>/`.
      batch_size, seed: see `HeldOut.batches`.
    Yields:
      Below `<row><branch>/`: `accuracy`, and `other_branch_accuracy`, which names this
      branch's image from the *other* branch's latents; from the mean of the visible tokens
      and, below `class_token/` and at `alpha` only, from the class token. The row
      `teacher_on_image/` is the teacher, shown each image alone under the same mask; its
      `other_branch_accuracy` is what latents of the other image tell by themselves.
      `chance` is the accuracy of the commonest class, `count` the number of mixtures.
    """
    options = dict(
        counted=lambda batch: batch.different_classes,
        pools=("mean", "class_token"),
        alphas=sorted({alpha, *alphas}),
        batch_size=batch_size,
        seed=seed,
    )
    parts = []
    for part in ("train", "validation", split):
        parts.append(collect(networks, held_out, part, **options))
        if not len(parts[-1].labels):
            raise UserError(f"semantics: no mixture of two classes in the {part} split")
    for row, pool in parts[0].features:
        names = prefixes(row, alpha, alphas if pool == "mean" else ())
        if not names:
            continue
        asked = (questions(part.features[row, pool]) for part in parts)
        for (s, whose, train), (*_, validation), (*_, test) in zip(*asked, strict=True):
            labels = (part.labels[:, s] for part in parts)
            examples = map(Labelled, (train, validation, test), labels)
            splits = Splits(*examples).checked(f"semantics, {row}{BRANCHES[s]}")
            value = logistic_accuracy(splits)
            name = f"{BRANCHES[s]}/{'' if pool == 'mean' else f'{pool}/'}{whose}accuracy"
            for prefix in names:
                yield prefix + name, value
    yield "chance", chance(parts[0].labels[:, 0], parts[-1].labels[:, 0])
    yield "count", len(parts[-1].labels)


def tables(results: Results) -> Iterator[Table]:
    """Accuracy of a probe on each branch."""
    keys = [
        f"semantics/{{row}}{branch}/{metric}"
        for metric in ("accuracy", "other_branch_accuracy")
        for branch in BRANCHES
    ]
    for run, numbers in results.items():
        rows = network_rows(numbers, run, keys)
        chance = {"the majority class": ["semantics/chance"] * len(BRANCHES)}
        rows += [(x, [*cells, "–", "–"]) for x, cells in labelled_rows(numbers, chance)]
        yield Table(
            "Class of each image, from latents of the mixture",
            "Accuracy of a linear probe that names a branch's image from that branch's "
            "latents, and (other) from the other branch's. Mixtures of two classes only.",
            (*BRANCHES, "other, sub.", "other, dom."),
            rows,
            run=run,
            example=keys[0].format(row=""),
        )


EVALUATOR = Evaluator(
    evaluate,
    tables=tables,
    needs_mixtures=True,
    needs_teacher=True,
    needs_labels=True,
    chooses_on_validation=True,
    without_alpha=("chance", "teacher_on_image/*"),
    without_mask_ratio=("chance",),
)
