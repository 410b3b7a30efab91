"""Pictures of validation images: the task, and `log.pictures_every` in the trackers."""

import io

import numpy as np
import pytest
from PIL import Image
from running import events

from imae_jax import evaluation
from imae_jax.errors import UserError
from imae_jax.models.factory import build_model
from imae_jax.report import figures
from imae_jax.training import pictures as pictures_of_a_run
from imae_jax.training import setup
from imae_jax.training.loop import train


def pictures(workdir):
    """The pictures among the events, by step."""
    found = {}
    for event in events(workdir):
        for value in event.summary.value:
            if value.HasField("image"):
                assert value.tag == "validation"
                encoded = io.BytesIO(value.image.encoded_image_string)
                found[event.step] = np.asarray(Image.open(encoded))
    return found


@pytest.mark.parametrize("kind", ["mae", "imae"])
def test_they_are_those_of_the_parameters_at_their_steps(
    kind, mae_config, imae_config, tmp_path
):
    config = mae_config() if kind == "mae" else imae_config()
    config.log.pictures_every = 3 * config.train.batch_size / 1297  # images of `train`
    config.log.every_steps = 4
    train(config, tmp_path)
    found = pictures(tmp_path)
    assert found.keys() == {3, 4}
    assert (found[3] != found[4]).any()
    config.data.evaluate_on.validation = figures.NUM_ROWS  # the same images
    run = evaluation.open_run(config, tmp_path)
    options = config.evals.reconstruction
    columns = figures.picture_columns(
        run.networks["student"],
        run.held_out,
        split="validation",
        batch_size=16,
        seed=options.seed,
        alpha=options.get("alpha"),
    )
    assert len(next(iter(columns.values()))) == figures.NUM_ROWS
    png = io.BytesIO(figures.as_png(figures.draw_grid(columns)))
    np.testing.assert_array_equal(Image.open(png).convert("RGB"), found[4])


def test_the_task_is_two_images_their_mixture_and_what_the_encoder_sees(imae_config):
    config = imae_config()
    dataset = setup.load_data(config)
    model = build_model(config, dataset.image_shape)
    held_out = pictures_of_a_run.few_images(config, dataset, model)
    assert held_out.dataset.sizes == {"validation": figures.NUM_ROWS}
    batch = next(held_out.batches("validation", batch_size=figures.NUM_ROWS, seed=0))
    columns = figures.task_columns(held_out, batch, alpha=0.3)
    assert list(columns) == ["subordinate", "dominant", "mixture", "masked"]
    subordinate, dominant, mixture, masked = columns.values()
    assert (subordinate[0] == dominant[1]).all() and (subordinate != dominant).any()
    np.testing.assert_allclose(mixture, 0.3 * subordinate + 0.7 * dominant, atol=1e-3)
    p = model.patch_size
    for row, mask in enumerate(batch.mask.mask):
        for patch, is_masked in enumerate(np.asarray(mask)):
            top, left = (p * place for place in divmod(patch, 8 // p))
            here = row, slice(top, top + p), slice(left, left + p)
            expected = figures.REMOVED_GREY if is_masked else mixture[here]
            np.testing.assert_array_equal(masked[here], expected)
    drawn = pictures_of_a_run.draw_task(config, dataset)
    assert [axis.get_title() for axis in drawn.axes[:4]] == list(columns)


def test_there_are_none_by_default(teacher):
    assert events(teacher) and not pictures(teacher)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"log": {"to": ()}}, r"log.pictures_every=1.0: must be 0 with log.to=\(\)"),
        ({"evals": {}}, "log.pictures_every=1.0: must be 0 without the section evals.rec"),
    ],
)
def test_without_place_or_alpha_they_are_refused(change, match, mae_config, tmp_path):
    config = mae_config()
    config.log.pictures_every = 1.0
    if "log" in change:
        config.log.to = ()
    else:
        del config.evals.reconstruction
    with pytest.raises(UserError, match=match):
        train(config, tmp_path / "run")
    assert not list(tmp_path.glob("run/*"))
