import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imae_jax.errors import UserError
from imae_jax.storage import atomic_files, checkpoint, pytrees
from imae_jax.storage.checkpoint import Checkpoints

PARAMS = dict(layer=dict(kernel=np.arange(6.0, dtype=np.float32).reshape(2, 3)))
OPT_STATE = (dict(count=np.int32(3)), ())


def put(tree):
    return jax.tree.map(jnp.asarray, tree)


@pytest.fixture
def saved(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(
                step, dict(params=put(PARAMS), opt_state=put(OPT_STATE)), {"note": step}
            )
    return tmp_path


def test_what_was_saved_comes_back(saved):
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.steps() == [3, 2]
        assert checkpoints.meta(3)["note"] == 3
        restored = checkpoints.restore(3, params=put(PARAMS), opt_state=put(OPT_STATE))
        only_params = checkpoints.restore(3, params=put(PARAMS))
    jax.tree.map(np.testing.assert_array_equal, restored["params"], PARAMS)
    jax.tree.map(np.testing.assert_array_equal, restored["opt_state"], OPT_STATE)
    assert jax.tree.structure(restored["opt_state"]) == jax.tree.structure(OPT_STATE)
    assert only_params.keys() == {"params"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_neither_saved_nor_loaded(
    saved, value, monkeypatch, capsys
):
    bad = dict(layer=dict(kernel=np.where(PARAMS["layer"]["kernel"] == 4, value, 0)))
    bad = jax.tree.map(lambda x: x.astype(np.float32), bad)
    with Checkpoints(saved, keep=3) as checkpoints:
        with pytest.raises(UserError, match="step 4 is not saved: params has NaN or"):
            checkpoints.save(4, dict(params=put(bad)), {})
        with pytest.raises(UserError, match="step 4 is not saved: opt_state has NaN or"):
            checkpoints.save(4, dict(params=put(PARAMS), opt_state=put(bad)), {})
        assert checkpoints.steps() == [3, 2]
        with monkeypatch.context() as patch:  # as an earlier version
            patch.setattr(checkpoint, "is_finite", lambda tree: True)
            checkpoints.save(4, dict(params=put(bad)), {})
    with Checkpoints(saved) as checkpoints:

        def read(step):
            return checkpoints.restore(step, params=put(PARAMS))

        step, found = checkpoints.newest(read)
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, found["params"], PARAMS)
    said = capsys.readouterr().err
    assert "checkpoints/4: params has NaN or infinite values; the one before" in said


def test_only_the_newest_are_kept(saved):
    assert sorted(os.listdir(saved / "checkpoints")) == ["2", "3"]


@pytest.mark.parametrize(
    "wanted,message",
    [
        (
            dict(layer=dict(kernel=np.zeros((2, 4), np.float32))),
            r"is float32\[2, 3\], should",
        ),
        (dict(layer=dict(kernel=np.zeros((2, 3), np.int32))), "should be int32"),
        (
            dict(layer=dict(weight=np.zeros((2, 3)))),
            "missing layer/weight; unexpected layer/k",
        ),
        ({**PARAMS, "more": np.zeros(1)}, "missing more"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_leaf_by_leaf(saved, wanted, message):
    with Checkpoints(saved) as checkpoints:
        with pytest.raises(UserError, match=message):
            checkpoints.restore(3, params=put(wanted))


def test_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoints"):
        Checkpoints(tmp_path)
    assert not os.listdir(tmp_path)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        with pytest.raises(UserError, match="checkpoints holds no finished checkpoint"):
            checkpoints.newest(checkpoints.meta)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b")])
def test_a_leaf_is_no_folder(names):
    assert pytrees.nested({"a/b": 1, "a/c": 2}) == {"a": {"b": 1, "c": 2}}
    with pytest.raises(ValueError, match="too"):
        pytrees.nested({name: np.ones(3) for name in names})


def test_digest_sees_every_value_name_and_type():
    digests = {
        pytrees.digest(params)
        for params in (
            PARAMS,
            dict(layer=dict(kernel=PARAMS["layer"]["kernel"] + 1e-3)),
            dict(layer=dict(weight=PARAMS["layer"]["kernel"])),
            dict(layer=dict(kernel=PARAMS["layer"]["kernel"].astype(np.float64))),
            dict(layer=dict(kernel=PARAMS["layer"]["kernel"].reshape(3, 2))),
        )
    }
    assert len(digests) == 5
    assert pytrees.digest(put(PARAMS)) == pytrees.digest(PARAMS)


def disk_full(handle):
    raise OSError(28, "No space left on device")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "numbers.json"
    atomic_files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        atomic_files.write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        atomic_files.write_text(path, "\ud800")
    monkeypatch.setattr(atomic_files.os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        atomic_files.write_json(path, {"a": 2})
    assert atomic_files.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["numbers.json"]


def test_broken_and_missing_json(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        atomic_files.read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        atomic_files.read_json(tmp_path / "config.json")
