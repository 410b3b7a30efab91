"""What a trained run is measured by.

An evaluator is a function of predict functions and held-out mixtures, and yields
`(name, value)`; it knows neither models nor parameters.
"""

from imae_jax.evaluators import reconstruction, separability

EVALUATORS = {
    "reconstruction": reconstruction.evaluate,
    "separability": separability.evaluate,
}

# They compare with what a teacher makes of each image alone.
NEED_TEACHER = {"separability"}
