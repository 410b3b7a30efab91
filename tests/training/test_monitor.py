"""`evals.during_training`: numbers of a run while it trains."""

import dataclasses
import json

import numpy as np
import pytest

import imae_jax
from imae_jax import evaluation
from imae_jax.data.load import load
from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.evaluators import during_training, networks
from imae_jax.evaluators.registry import all_evaluators
from imae_jax.probing.knn import knn_accuracy
from imae_jax.probing.linear_classifiers import Labelled, Splits
from imae_jax.probing.similarity import effective_rank
from imae_jax.training import monitor, trained_run
from imae_jax.training.cadence import steps_of
from imae_jax.training.loop import train
from imae_jax.training.monitor import Monitor, period
from imae_jax.training.setup import set_up

PREFIX = "during_training/"
GAINS = {"gain", "subordinate/excess", "dominant/excess"}
ALL = GAINS | {"knn_accuracy", "effective_rank"}


def measured(config):
    """The config, measured at steps 3, 6 and 8 of 8 on few images."""
    section = config.evals.during_training
    section.update(fit_images=64, score_images=16, batch_size=16)
    config.train.total_steps, config.log.every_steps = 8, 4
    section.every_epochs = 3 * config.train.batch_size / 1297  # images of `train`
    return config


def lines_of(workdir):
    """What was measured, by step."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    found = {}
    for line in lines:
        found[line["step"]] = {
            name.removeprefix(PREFIX): value
            for name, value in line.items()
            if name.startswith(PREFIX)
        }
    return found


@pytest.fixture(scope="module")
def run(imae_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("measured") / "imae"
    train(measured(imae_config()), workdir)
    return workdir


def test_it_is_off_by_default_and_in_runs_from_before(mae_config):
    config = mae_config()
    assert period(config) == 0
    del config.evals.during_training
    assert period(config) == 0


@pytest.mark.parametrize(
    ("epochs", "steps"), [(0.0, 0), (1e-9, 1), (1.0, 41), (2.5, 101), (1e308, 2**31)]
)
def test_epochs_in_steps(epochs, steps, mae_config):
    assert steps_of(epochs, mae_config(), 1297) == steps


def test_numbers_stand_in_the_lines_of_their_steps(run):
    lines = lines_of(run)
    assert {step for step, found in lines.items() if found} == {3, 6, 8}
    assert lines[4] == {}
    assert all(found.keys() == ALL for found in lines.values() if found)
    assert len({found["gain"] for found in lines.values() if found}) == 3


def test_training_is_the_same_without(run, imae_config, tmp_path):
    config = measured(imae_config())
    config.evals.during_training.every_epochs = 0.0
    train(config, tmp_path)
    assert not any(lines_of(tmp_path).values())
    mesh = sharding.make_mesh()
    with_it, without = (
        trained_run.load_run(folder, "workdir", mesh).digest for folder in (run, tmp_path)
    )
    assert with_it == without


def test_a_resumed_run_measures_what_an_uninterrupted_one_does(run, imae_config, tmp_path):
    config = measured(imae_config())
    train(config, tmp_path, stop_at=4)
    train(config, tmp_path)
    resumed, whole = lines_of(tmp_path), lines_of(run)
    for step in (3, 6, 8):
        assert resumed[step] == pytest.approx(whole[step], rel=1e-4, abs=1e-4)


def test_numbers_are_those_of_the_functions_on_arrays(run, data_dir):
    """The last line against `imae_jax.load` and the functions on features."""
    model = imae_jax.load(run)
    dataset = load("digits", data_dir)
    images = during_training.few_images(dataset, "validation", 64, 16, "raise")
    tokens = {
        part: np.asarray(model.encode(split.pixels))[:, 1:].mean(axis=1)
        for part, split in images.splits.items()
    }
    train_part, test_part = (
        Labelled(tokens[part], images.splits[part].labels) for part in ("train", "test")
    )
    splits = Splits(train_part, train_part, test_part)
    last = lines_of(run)[8]
    expected = knn_accuracy(splits, neighbours=20, temperature=0.07)
    assert last["knn_accuracy"] == pytest.approx(expected)
    rank = effective_rank(np.cov(tokens["train"], rowvar=False))
    assert last["effective_rank"] == pytest.approx(rank, rel=1e-3)
    assert last["gain"] == pytest.approx(
        last["subordinate/excess"] + last["dominant/excess"], abs=1e-6
    )


def test_the_gain_is_that_of_the_separability_evaluator(run, imae_config):
    """On the same few images: fitted, chosen and scored as `eval` does."""
    config = measured(imae_config())
    opened = evaluation.open_run(config, run)
    held_out = Monitor.of(set_up(config, run)).held_out
    evaluator = all_evaluators()["separability"]
    section = config.evals.separability.copy_and_resolve_references()
    section.update(batch_size=16, alphas=())
    known = {name: opened.networks[name] for name in ("student", "teacher")}
    found = dict(evaluator.evaluate(known, held_out, **evaluator.options(section)))
    last = lines_of(run)[8]
    assert {name: last[name] for name in GAINS} == pytest.approx(
        {name: found[name] for name in GAINS}, abs=1e-4
    )


def test_a_mae_is_compared_with_itself(mae_config, tmp_path):
    config = measured(mae_config())
    config.train.total_steps = 1
    train(config, tmp_path)
    assert lines_of(tmp_path)[1].keys() == ALL


def test_without_teacher_or_classes_there_is_no_gain_and_no_accuracy(imae_config, run):
    config = measured(imae_config())
    held_out = Monitor.of(set_up(config, run)).held_out
    student = evaluation.open_run(config, run).networks["student"]
    options = during_training.EVALUATOR.options(config.evals.during_training)
    found = dict(during_training.evaluate({"student": student}, held_out, **options))
    assert found.keys() == {"knn_accuracy", "effective_rank"}
    nameless = monitor.dataclasses.replace(held_out.dataset, class_names=())
    held_out = monitor.dataclasses.replace(held_out, dataset=nameless)
    found = dict(during_training.evaluate({"student": student}, held_out, **options))
    assert found.keys() == {"effective_rank"}


def test_a_network_that_cannot_be_measured_still_learns(
    mae_config, tmp_path, monkeypatch, capsys
):
    def embed(images):
        tokens = np.ones((len(images), 8), np.float32)
        return {"mean": tokens, "class_token": tokens}

    monkeypatch.setattr(monitor, "make_network", lambda *_: networks.Network(embed=embed))
    measure = Monitor.of(set_up(measured(mae_config()), tmp_path))
    assert measure(None) == {}
    assert "evals.during_training is left out: k-NN" in capsys.readouterr().err


def test_images_to_choose_by_and_to_score_are_different(data_dir):
    dataset = load("digits", data_dir)
    for split in ("validation", "test"):
        few = during_training.few_images(dataset, split, 50, 10, "raise")
        sizes = {part: len(found.images) for part, found in few.splits.items()}
        assert sizes == {"train": 50, "validation": 10, "test": 10}
        published = dataset.splits[split].pixels
        scored = np.concatenate([few.splits[p].pixels for p in ("validation", "test")])
        known = {image.tobytes() for image in published}
        assert all(image.tobytes() in known for image in scored)
        assert len({image.tobytes() for image in scored}) == 20


def test_both_halves_have_the_classes_of_a_folder_that_lists_class_by_class(data_dir):
    dataset = load("digits", data_dir)
    in_order = np.argsort(dataset.splits["validation"].labels)
    split = dataset.splits["validation"].take(in_order)
    sorted_too = dataclasses.replace(
        dataset, splits={**dataset.splits, "validation": split}
    )
    few = during_training.few_images(sorted_too, "validation", 50, 50, "raise")
    for part in ("validation", "test"):
        assert len(set(few.splits[part].labels)) == 10


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("every_epochs", -1.0, "must be at least 0"),
        ("alpha", 0.5, r"must be in \(0, 0.5\)"),
        ("fit_images", 19, "at least the 20 neighbours"),
        ("score_images", 1, "at least 2"),
        ("split", "train", "'validation' or 'test'"),
    ],
)
def test_impossible_options(mae_config, tmp_path, key, value, message):
    config = mae_config()
    config.evals.during_training[key] = value
    with pytest.raises(UserError, match=rf"evals.during_training.{key}.*{message}"):
        set_up(config, tmp_path)


def test_a_missing_option(mae_config, tmp_path):
    config = mae_config()
    del config.evals.during_training.fit_images
    with pytest.raises(UserError, match="evals.during_training.fit_images is missing"):
        set_up(config, tmp_path)
