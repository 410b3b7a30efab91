"""Mutations of a checkpoint: each is noticed in one line, or changes nothing."""

import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mutations import mutated

from imae_jax.errors import UserError
from imae_jax.storage.checkpoint import Checkpoints

COUNT = 100
ARRAYS = {
    "params": {"layer": {"kernel": np.arange(12.0, dtype=np.float32).reshape(3, 4)}},
    "opt_state": ({"count": np.int32(3)}, {"mu": np.full(5, 0.1, np.float32)}),
}
META = {"class_names": ["a"], "config": {"seed": 3}, "loss": 0.5}


def put(tree):
    return jax.tree.map(jnp.asarray, tree)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("mutations") / "run"
    workdir.mkdir()
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(1, put(ARRAYS), META)
    return workdir


@pytest.mark.slow
def test_a_mutated_checkpoint_is_right_or_refused_in_one_line(saved, tmp_path, capsys):
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    generator = np.random.default_rng(0)
    files = sorted(x for x in saved.rglob("*") if x.is_file() and x.stat().st_size)
    refused = 0
    for number in range(COUNT):
        copy = tmp_path / str(number)
        shutil.copytree(saved, copy)
        path = copy / files[generator.integers(len(files))].relative_to(saved)
        if generator.integers(8) == 0:
            path.unlink()
        else:
            path.write_bytes(mutated(path.read_bytes(), generator))
        try:
            with Checkpoints(copy) as checkpoints:
                for step in checkpoints.steps():
                    meta = checkpoints.meta(step)
                    found = checkpoints.restore(step, **put(ARRAYS))
                    assert {name: meta[name] for name in META} == META
                    jax.tree.map(np.testing.assert_array_equal, found, ARRAYS)
        except (UserError, OSError) as error:
            assert "\n" not in str(error)
            refused += 1
        shutil.rmtree(copy)
    assert refused > COUNT // 4
