"""Every preset trains: its data set is prepared, a teacher and an i-MAE make two steps."""

import json

import jax
import mock_archives
import numpy as np
import pytest
from PIL import Image
from small_inputs import Flowers, make_folder

from configs import datasets, imae, mae, studies, transfer
from configs.ablations import encoder_width
from imae_jax import evaluation, pretrained
from imae_jax.data.builders import shapes
from imae_jax.data.builders.registry import BUILDERS
from imae_jax.errors import UserError
from imae_jax.interop import export_weights
from imae_jax.report import page
from imae_jax.storage import workdir
from imae_jax.storage.checkpoint import Checkpoints
from imae_jax.storage.metrics_log import read_metrics
from imae_jax.storage.workdir import read_config
from imae_jax.training import setup
from imae_jax.training.loop import train
from imae_jax.training.state import init_params


def mock_cifar(name):
    def write(folder):
        files = mock_archives.cifar_files(name)
        for member in files:
            if "data_batch" in member:  # a batch of all has to be a whole one
                files[member] = mock_archives.records(10, 10).tobytes()
        mock_archives.write_cifar(folder, name, files)

    return write


def mock_tiny(folder):
    files = mock_archives.tiny_files()
    for wnid in ("n01", "n02", "n03"):
        for i in range(2, 12):
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = mock_archives.jpeg()
    for i in range(2, 8):
        files[f"val/images/val_{i}.JPEG"] = mock_archives.jpeg()
        files[mock_archives.ANNOTATIONS] += b"val_%d.JPEG\tn01\t0\t0\t9\t9\n" % i
    mock_archives.write_zip(folder, files)


def mock_folder(folder):
    names = [f"{name}/{i}.jpg" for name in ("ant", "bee") for i in range(30)]
    make_folder(folder, *names, size=(50, 70))


def mock_imagenet(folder):
    names = [f"train/{wnid}/{i}.JPEG" for wnid in ("n01", "n02") for i in range(20)]
    names += [f"val/{wnid}/{i}.JPEG" for wnid in ("n01", "n02") for i in range(5)]
    make_folder(folder, *names, size=(250, 300))


def mock_flowers(folder):
    options = dict(config="large", data_dir=folder, file_format="array_record")
    Flowers(**options).download_and_prepare()


MOCKS = {
    "digits": lambda folder: None,  # the real ones
    "shapes": lambda folder: None,
    "cifar10": mock_cifar("cifar10"),
    "cifar100": mock_cifar("cifar100"),
    "tiny_imagenet": mock_tiny,
    "imagenet": mock_imagenet,
    "folder": mock_folder,
    "folder_small": mock_folder,
    "tfds:flowers/large": mock_flowers,
}


CLASSIFIED = ("cifar10", "folder", "tfds:flowers/large")


def test_every_preset_is_tried():
    # The small one is CIFAR-10's, with other numbers.
    tried = MOCKS.keys() - {"tfds:flowers/large"} | {"cifar10_small"}
    assert tried == datasets.PRESETS.keys()
    names = {mae.get_config(preset).data.name for preset in datasets.PRESETS}
    assert names == {*BUILDERS, "imagenet2012", "folder"}


@pytest.mark.parametrize("mode", ["mae", "imae", "linear", "finetune", "scratch"])
def test_a_data_set_of_tfds_has_the_recipe_of_folder_small(mode):
    def of(dataset):
        if mode in ("mae", "imae"):
            return {"mae": mae, "imae": imae}[mode].get_config(dataset).to_dict()
        return transfer.get_config(f"{dataset},{mode}").to_dict()

    own, named = of("folder_small"), of("tfds:flowers/large:1.2.0")
    assert own["data"].pop("name") == "folder"
    assert named["data"].pop("name") == "tfds:flowers/large:1.2.0"
    own["evals"].pop("segmentation", None)  # no label maps lie beside records
    assert own == named
    assert own["train"]["batch_size"] <= 32


@pytest.mark.parametrize("preset", datasets.PRESETS)
def test_decoders_are_narrower_than_their_encoders(preset):
    """Else a head could be inverted, and lets nothing go."""
    for config in (mae.get_config(preset), imae.get_config(preset)):
        width = encoder_width(config)
        assert config.model.decoder.width <= 2 / 3 * width
        if preset != "imagenet":  # the released code's: 512 of 768
            assert config.model.decoder.width * 2 == width


def test_a_study_of_sizes_keeps_decoders_half_as_wide():
    for dataset in ("folder_small", "cifar10"):
        config = studies.get_config(f"size,{dataset}")
        for arm in config.arms.values():
            for name, run in arm.runs.items():
                changed = config.runs[name].copy_and_resolve_references()
                changed.update(run.change)
                assert changed.model.decoder.width * 2 == encoder_width(changed)
    widths = studies.get_config("size,folder_small").arms
    assert list(widths) == ["width_48", "width_96", "width_192"]


def train_both(preset, folder):
    """Trains a teacher and an i-MAE for two steps; returns the i-MAE's workdir."""
    for module, name in ((mae, "teacher"), (imae, "imae")):
        config = module.get_config(f"{preset},runlocal")
        config.data.dir = str(folder / "data")
        config.train.total_steps = 2
        if name == "imae":
            config.teacher.init = str(folder / "teacher")
        train(config, folder / name)
        metrics = read_metrics(folder / name)
        assert [line["step"] for line in metrics] == [1, 2]
        assert all(np.isfinite(line["loss/total"]) for line in metrics)
    return folder / "imae"


@pytest.mark.slow
@pytest.mark.parametrize("preset", MOCKS)
def test_two_steps(preset, tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", dict(train=60, validation=20, test=20))
    (tmp_path / "data").mkdir()
    MOCKS[preset](tmp_path / "data")
    train_both(preset, tmp_path)
    # Their encoder for a probe, and fine-tuned: of one data set in memory, one of files.
    for mode in ("linear", "finetune") if preset in CLASSIFIED else ():
        config = transfer.get_config(f"{preset},{mode},runlocal")
        config.data.dir, config.init = str(tmp_path / "data"), str(tmp_path / "imae")
        config.train.total_steps = 2
        train(config, tmp_path / mode)
        assert np.isfinite(read_metrics(tmp_path / mode)[-1]["loss/total"])
    with Checkpoints(tmp_path / "imae") as checkpoints:
        meta = checkpoints.meta(2)
    # What pictures and inference need is stored with the run.
    channels = meta["image_shape"][2]
    assert len(meta["mean"]) == len(meta["std"]) == channels
    assert len(meta["class_names"]) > 1


def test_the_presets_sizes_are_those_of_the_sources():
    """The table of architectures and recipes in the paper, its code and its issues."""
    for preset, variant, decoder in (
        ("cifar10", "Ti/2", (96, 4, 3)),
        ("cifar100", "Ti/2", (96, 4, 3)),
        ("tiny_imagenet", "S/8", (192, 6, 6)),
        ("imagenet", "B/16", (512, 8, 16)),
    ):
        for module in (mae, imae):
            config = module.get_config(preset)
            assert config.model.variant == variant
            size = config.model.decoder
            assert (size.width, size.depth, size.heads) == decoder
            assert config.mask.ratio == 0.75 and config.augment.flip
    warm = imae.get_config("imagenet")
    assert (warm.init, warm.optim.blr, warm.train.batch_size) == ("teacher", 1e-4, 256)
    assert (warm.train.total_epochs, warm.optim.warmup_epochs) == (50, 5)
    assert warm.augment.crop_scale == (0.2, 1.0)


@pytest.mark.slow
def test_images_are_cropped_once(tmp_path):
    """Those of a folder by the feed, others on the device."""
    mock_folder(tmp_path / "data")
    config = mae.get_config("folder,runlocal")
    config.data.dir = str(tmp_path / "data")
    config.augment.flip = False
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)

    def loss(**changes):
        config.data.update(changes.get("data", {}))
        config.augment.update(changes.get("augment", {}))
        made = setup.set_up(config, tmp_path)
        params = init_params(made.model, 0)
        return float(jax.jit(setup.make_objective(made))(params, {}, None, images, 0, 0)[0])

    streamed = loss(augment=dict(crop_scale=(0.2, 0.5)))
    resident = loss(data=dict(feed="resident"))
    assert loss(augment=dict(crop_scale=())) == streamed != resident


@pytest.mark.slow
def test_evaluation_without_classes_leaves_out_what_needs_them(tmp_path, capsys):
    names = [f"train/{i}.png" for i in range(360)] + [f"val/{i}.png" for i in range(40)]
    make_folder(tmp_path / "data", *names)
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (70, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / name)
    workdir = train_both("folder", tmp_path)
    config = read_config(workdir)
    found = evaluation.evaluate(config, workdir)
    said = capsys.readouterr().out
    for name in ("semantics", "probes"):
        assert f"{name} is left out, the images are of no class" in said
    assert "segmentation is left out, the images have no label maps" in said
    groups = {key.partition("/")[0] for key in found}
    assert groups == {"reconstruction", "separability", "representation", "quality"}
    layout = json.loads((workdir / "figures" / "explorer.json").read_text())
    assert layout["labels"][1] == ["image 3", "image 4"]
    settings = json.loads((workdir / "eval_settings.json").read_text())
    assert settings["reconstruction/subordinate/mse"]["split"] == "validation"
    assert settings["reconstruction/subordinate/mse"]["count"] == 40


def not_square(folder, module, **changes):
    """A run on 32x16 pixels, which are cut out of other images; trained for two steps."""
    config = module.get_config("folder_small,runlocal")
    config.data.dir = str(folder / "data")
    config.data.files.image_size = "32x16"
    config.train.total_steps = 2
    config.update(changes)
    workdir = folder / config.model.name
    train(config, workdir)
    return workdir


@pytest.mark.slow
def test_images_that_are_not_square(tmp_path):
    """From training to the report and what is exported."""
    for number in range(200):
        path = tmp_path / "data" / ("ant" if number % 2 else "bee") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    cropped = dict(augment=dict(crop_scale=(0.2, 1.0)))  # and so they are streamed
    teacher = not_square(tmp_path, mae, **cropped)
    run = not_square(tmp_path, imae, teacher=dict(init=str(teacher)))
    config = workdir.read_config(run)
    del config.evals.probes  # of whole images, and slow
    found = evaluation.evaluate(config, run)
    assert {"separability/subordinate/r2", "reconstruction/dominant/ratio"} <= set(found)
    assert page.write_report(run).exists()
    for kind, ending in (("safetensors", ".safetensors"), ("timm", ".safetensors")):
        export_weights.export(run, kind, tmp_path / f"{kind}{ending}")
    export_weights.export(run, "stablehlo", tmp_path / "program")
    export_weights.export(teacher, "safetensors", tmp_path / "teacher.safetensors")
    model = pretrained.load(tmp_path / "safetensors.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 16, 3), np.uint8)
    assert model.encode(images).shape == (2, 9, 32)
    assert model.separate(images[0], images[1]).dominant.shape == (32, 16, 3)


@pytest.mark.slow
def test_a_run_from_before_there_was_a_background_is_resumed(tmp_path):
    mock_folder(tmp_path / "data")
    config = mae.get_config("folder_small,runlocal")
    config.data.dir = str(tmp_path / "data")
    before = config.copy_and_resolve_references()
    with before.unlocked():
        del before.data.files.background
    train(before, tmp_path / "run", stop_at=2)
    assert evaluation.evaluate(workdir.read_config(tmp_path / "run"), tmp_path / "run")
    assert int(train(config, tmp_path / "run").step) == 4
    config.data.files.background = "black"
    with pytest.raises(UserError, match="data.files.background is 'white' there, 'black'"):
        train(config, tmp_path / "run")
