"""Evaluators by name."""

from imae_jax.evaluators import (
    attributes,
    classification,
    probes,
    quality,
    recognition,
    reconstruction,
    representation,
    semantics,
    separability,
)

EVALUATORS = {
    "reconstruction": reconstruction.evaluate,
    "separability": separability.evaluate,
    "semantics": semantics.evaluate,
    "attributes": attributes.evaluate,
    "recognition": recognition.evaluate,
    "probes": probes.evaluate,
    "representation": representation.evaluate,
    "quality": quality.evaluate,
    "classification": classification.evaluate,
}
# They need a classifier; the others need a decoder.
OF_CLASSIFIERS = frozenset({"classification"})
# They need an i-MAE.
OF_MIXTURES = frozenset(EVALUATORS) - OF_CLASSIFIERS - {"reconstruction", "probes"}
# They choose a strength or a rate on the validation split.
CHOOSING = frozenset({"separability", "semantics", "attributes", "probes"})
# They name classes: without any they are left out.
NEED_LABELS = frozenset({"semantics", "attributes", "recognition", "probes"})
# They compare with what a teacher makes of each image alone.
NEED_TEACHER = frozenset({"separability", "semantics", "attributes", "representation"})
