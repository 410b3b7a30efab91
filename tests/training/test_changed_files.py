"""A folder whose files change between training, resuming and evaluating a run."""

import numpy as np
import pytest
from PIL import Image

from configs import imae, mae
from imae_jax import evaluation
from imae_jax.data import image_names
from imae_jax.errors import UserError
from imae_jax.interop import export_weights, import_weights
from imae_jax.storage.workdir import read_config
from imae_jax.training import setup
from imae_jax.training.loop import train


@pytest.fixture
def photos(tmp_path):
    """Eighty small images of two classes, without a folder of held-out ones."""
    random = np.random.default_rng(0)
    for n in range(80):
        path = tmp_path / "photos" / ("cat", "dog")[n % 2] / f"{n:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return tmp_path / "photos"


def config_of(module, photos):
    config = module.get_config("folder_small,runlocal")
    config.data.dir = str(photos)
    config.data.files.image_size = 16
    config.train.batch_size = 16
    config.train.total_steps = 2
    config.checkpoint.every_steps = 1
    config.compute.dtype = "float32"
    config.data.evaluate_on.update(dict(train=None, validation=8, test=None))
    return config


def only_reconstruction(config):
    for name in list(config.evals):
        if name != "reconstruction":
            del config.evals[name]
    return config


def test_a_renamed_file_draws_other_images_and_is_refused(photos, tmp_path):
    config = only_reconstruction(config_of(mae, photos))
    train(config, tmp_path / "run", stop_at=1)
    evaluation.evaluate(config, tmp_path / "run")
    (photos / "cat" / "00.png").rename(photos / "cat" / "zz.png")
    with pytest.raises(UserError, match="some of them were trained on"):
        evaluation.evaluate(config, tmp_path / "run")
    with pytest.raises(UserError, match="names of the image files of test and train in"):
        train(config, tmp_path / "run")
    # As when a folder is moved: the names within it are the same.
    (photos / "cat" / "zz.png").rename(photos / "cat" / "00.png")
    config.data.dir = str(photos.rename(tmp_path / "moved"))
    evaluation.evaluate(config, tmp_path / "run")
    train(config, tmp_path / "run")


def test_imported_weights_are_measured_on_any_images(photos, tmp_path):
    config = only_reconstruction(config_of(mae, photos))
    train(config, tmp_path / "run", stop_at=1)
    out = tmp_path / "run.safetensors"
    export_weights.export(tmp_path / "run", "safetensors", out)
    import_weights.import_file(out, tmp_path / "imported", {})
    (photos / "cat" / "00.png").rename(photos / "cat" / "zz.png")
    own = read_config(tmp_path / "imported")
    own.data.dir = str(photos)
    evaluation.evaluate(only_reconstruction(own), tmp_path / "imported")


def test_a_teacher_of_other_images_is_named(photos, tmp_path, caplog):
    train(config_of(mae, photos), tmp_path / "teacher", stop_at=1)
    config = config_of(imae, photos)
    config.teacher.init = str(tmp_path / "teacher")
    setup.set_up(config, tmp_path / "run")
    assert "may have seen" not in caplog.text
    (photos / "dog" / "01.png").unlink()
    (photos / "dog" / "new.png").write_bytes((photos / "dog" / "03.png").read_bytes())
    setup.set_up(config, tmp_path / "run")
    assert "the teacher may have seen images that are held out now" in caplog.text


def test_with_a_test_folder_more_training_images_may_come(photos, tmp_path):
    (tmp_path / "split" / "test").mkdir(parents=True)
    photos = photos.rename(tmp_path / "split" / "train")
    for name in ("cat", "dog"):
        (tmp_path / "split" / "test" / name).mkdir()
        for path in sorted((photos / name).iterdir())[:3]:
            path.rename(tmp_path / "split" / "test" / name / path.name)
    config = only_reconstruction(config_of(mae, tmp_path / "split"))
    assert not image_names.is_set_aside(setup.load_data(config))
    train(config, tmp_path / "run", stop_at=1)
    path = photos / "cat" / "new.png"
    path.write_bytes(next(iter((photos / "cat").iterdir())).read_bytes())
    evaluation.evaluate(config, tmp_path / "run")


def test_images_in_arrays_have_no_names(mae_config):
    dataset = setup.load_data(mae_config())
    assert image_names.digests(dataset) == {}
    assert not image_names.is_drawn_anew(dataset, {})
