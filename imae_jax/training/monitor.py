"""Numbers of a run while it trains, `evals.during_training`."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any, Self

from ml_collections import ConfigDict

from imae_jax.errors import UserError
from imae_jax.evaluators import during_training
from imae_jax.evaluators.held_out import HeldOut
from imae_jax.evaluators.networks import Network
from imae_jax.training.predict import make_network
from imae_jax.training.setup import Setup

logger = logging.getLogger(__name__)

NAME = "during_training"


def period(config: ConfigDict) -> float:
    """Returns the number of epochs between measurements; 0: there are none."""
    section = config.evals.get(NAME) or {}
    return section.get("every_epochs", 0.0)


@dataclasses.dataclass(frozen=True)
class Monitor:
    """Measures the parameters of a run in training.

    Attributes:
      setup: components of the run.
      held_out: the few images that it is measured on.
      teacher: the teacher's predict functions, if the run has one.
    """

    setup: Setup
    held_out: HeldOut
    teacher: Mapping[str, Network]

    @classmethod
    def of(cls, setup: Setup) -> Self:
        """Loads the images; nothing is compiled yet."""
        config, section = setup.config, setup.config.evals[NAME]
        dataset = during_training.few_images(
            setup.dataset,
            section.split,
            section.fit_images,
            section.score_images,
            config.data.on_bad_image,
        )
        run = setup.teacher
        teacher = run and {"teacher": make_network(run.model, run.params, setup.mesh)}
        return cls(setup, HeldOut.of(config, setup.model, dataset), teacher or {})

    def __call__(self, params: Any) -> dict[str, float]:
        """Returns the metrics that are finite, by name; none, with the reason, if it fails.

        A network that cannot be measured, such as one whose features are all the same, may
        still learn.
        """
        setup = self.setup
        student = make_network(setup.model, params, setup.mesh)
        teacher = self.teacher
        if not setup.model.is_fed_mixtures:  # a MAE is compared with itself
            teacher = {"teacher": student}
        section = setup.config.evals[NAME]
        options = during_training.EVALUATOR.options(section)
        networks = {"student": student} | dict(teacher)
        try:
            found = list(during_training.evaluate(networks, self.held_out, **options))
        except UserError as error:
            logger.warning(f"{setup.workdir.name}: evals.{NAME} is left out: {error}")
            return {}
        return {f"{NAME}/{name}": value for name, value in found if math.isfinite(value)}
