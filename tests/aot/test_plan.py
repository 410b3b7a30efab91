"""`main.py compile`: plans for devices that are not here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import imae, mae, transfer
from imae_jax.aot import compile_step, plan, tpu_slices
from imae_jax.aot.compile_step import MemoryUse
from imae_jax.data.builders import shapes
from imae_jax.data.builders.registry import BUILDERS, FORMS
from imae_jax.data.load import load
from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.models.factory import build_model
from imae_jax.training.state import init_params

ROOT = Path(__file__).parents[2]
PRESETS = [
    *[
        (module, arg)
        for arg in (
            "digits",
            "shapes",
            "cifar10",
            "cifar10_small",
            "tiny_imagenet",
            "imagenet",
        )
        for module in (mae, imae)
    ],
    *[(transfer, f"cifar10,{mode}") for mode in transfer.MODES],
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arg"), PRESETS, ids=lambda x: x if isinstance(x, str) else x.__name__
)
def test_every_presets_step_can_be_lowered_for_tpus(module, arg):
    config = plan.adapted(module.get_config(arg), "tpu")
    mesh = sharding.make_mesh()
    plan.check(config, mesh.size, "tpu")
    step = compile_step.trace(config, mesh, "tpu")
    text = step.traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "bf16" in text and "mhlo.num_partitions = 8" in text


# In a process of its own: tests compile without optimizations.
SMALL = """
import json
from configs import imae
from imae_jax.aot import compile_step, plan, tpu_slices
from imae_jax.distributed import sharding
sharding.MIN_SPLIT = 2**12
found = []
chip, devices = tpu_slices.devices_of("v5e:2x4")
for fsdp, attention in ((1, "self"), (8, "self"), (8, "cross")):
    config = plan.adapted(imae.get_config("digits,runlocal"), "tpu")
    config.model.decoder.attention = attention
    config.loss.predict_fraction = 0.5 if attention == "cross" else 1.0
    if attention == "cross":
        config.mask.update(dict(kind="content", content_weight=1.0))
    config.model.encoder.width = config.model.decoder.width = 128
    mesh = sharding.make_mesh(devices, fsdp)
    step = compile_step.trace(config, mesh, "tpu")
    compiled, need = compile_step.compile_step(step, chip.memory)
    found.append(need._asdict() | plan.traffic(compiled, step, config, mesh))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_tpu_compiler_finds_nothing_to_send_but_gradients_and_shares(parity):
    parity("libtpu")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
    done = subprocess.run(
        [sys.executable, "-c", SMALL],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    copied, shared, cross = json.loads(done.stdout.splitlines()[-1])
    assert {x["kind"] for x in copied["collectives"]} == {"all-reduce"}
    for found in (shared, cross):
        kinds = {x["kind"] for x in found["collectives"]}
        assert kinds == {"all-reduce", "all-gather", "reduce-scatter"}
        gathered = [x for x in found["collectives"] if x["kind"] == "all-gather"]
        assert all("params[" in x["origin"] for x in gathered)
    for found in (copied, shared, cross):
        assert found["stray_collectives"] == 0
        # Beside what has to be sent a few sums for the log.
        assert found["ratio_vs_least_bytes_sent"] == pytest.approx(1, abs=0.01)
    assert shared["arguments"] < 0.5 * copied["arguments"]


def test_forms_are_those_of_the_data_sets(data_dir):
    digits = load("digits", data_dir)
    found = digits.image_shape, len(digits.class_names), digits.sizes["train"]
    assert found == FORMS["digits"]
    shape = (shapes.SIDE, shapes.SIDE, 3)
    assert FORMS["shapes"][::2] == (shape, shapes.SPLITS["train"])
    assert FORMS.keys() == BUILDERS.keys()


def test_without_a_gpu_a_plan_has_what_takes_no_compiler():
    config = imae.get_config("digits,runlocal")
    found = plan.plan(config, "cuda")
    model = build_model(config, (8, 8, 1))
    params = jax.eval_shape(lambda: init_params(model, 0))
    assert found["parameters"] == sum(x.size for x in jax.tree.leaves(params))
    assert found["devices"] == 8 and found["resident_image_bytes"] == 1297 * 64
    # Parameters, their two moments, the teacher; images of the batch and of the set.
    state = 3 * found["parameters"] + found["teacher_parameters"]
    expected = 4 * state + 32 * (64 + 4) / 8 + found["resident_image_bytes"]
    assert found["argument_bytes"] == pytest.approx(expected, abs=64)
    assert "there is no GPU here" in plan.as_text(found)


def test_flops_are_those_of_the_whole_batch_and_of_no_loop():
    config = mae.get_config("digits,runlocal")
    plain = compile_step.count_flops(config)
    config.compute.scan, config.train.accumulate = True, 2
    assert compile_step.count_flops(config) == plain
    config.train.batch_size *= 2
    assert compile_step.count_flops(config) == pytest.approx(2 * plain, rel=0.05)


@pytest.fixture
def compiler(monkeypatch):
    """A stand-in for the compiler: 1,000 bytes an image, less with recomputation."""
    tried = []

    def compiled(step, memory):
        size = len(np.empty(step.batch[1].shape))
        tried.append((size, compiled.remat))
        each = {"none": 1000, "products": 600, "blocks": 300}[compiled.remat]
        state = compile_step.bytes_each((step.state, step.teacher)) + step.resident
        # The program grows a little, too.
        return None, MemoryUse(0, 0, state + int(each * size * (1 + size / 1e5)), memory)

    def trace(config, mesh, platform, real=compile_step.trace):
        compiled.remat = config.compute.remat
        return real(config, mesh, platform)

    monkeypatch.setattr(compile_step, "compile_step", compiled)
    monkeypatch.setattr(compile_step, "trace", trace)
    return compiled, trace, tried


@pytest.mark.parametrize("images", [8, 40, 1000])
def test_the_largest_batch_fits_and_is_close_to_the_limit(images, compiler):
    compiled, trace, tried = compiler
    config = mae.get_config("digits,runlocal")
    mesh = sharding.make_mesh(jax.devices()[:2])
    step = trace(config, mesh, "cpu")
    fixed = compile_step.bytes_each((step.state, step.teacher)) + step.resident
    memory = fixed + 1000 * images
    need = compiled(step, memory)[1]
    found = plan.largest_batch(config, mesh, "cpu", step, need)
    assert 0.9 * images - 4 < found <= images
    assert found % 4 == 0 and len(tried) < 5


def test_the_cheapest_recomputation_that_fits_is_found(compiler):
    _, trace, tried = compiler
    config = mae.get_config("digits,runlocal")
    mesh = sharding.make_mesh(jax.devices()[:1])
    step = trace(config, mesh, "cpu")
    fixed = compile_step.bytes_each((step.state, step.teacher)) + step.resident
    for each, expected in ((700, "products"), (400, "blocks"), (100, None)):
        memory = fixed + each * config.train.batch_size
        assert plan.cheapest_remat(config, mesh, "cpu", memory) == expected
    assert config.compute.remat == "none"


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5e", "'v5e' is not known: give cuda, or one of v4, v5e, v5p, v6e"),
        ("v5e:2y4", "'v5e:2y4' is not known"),
        ("v9x:2x4", "'v9x:2x4' is not known"),
        ("v5e:0x4", "'v5e:0x4' is not known"),
        ("v5e:2x2x2", "no slice: chips of v5e lie in 2 directions, at most 256"),
        ("v6e:16x32", "no slice: chips of v6e lie in 2 directions, at most 256"),
        ("v4:2x2", "no slice: chips of v4 lie in 3 directions, at most 4,096"),
    ],
)
def test_unknown_slices_get_one_line(topology, message):
    with pytest.raises(UserError, match=message):
        tpu_slices.devices_of(topology)


def test_a_slice_that_cannot_be_gets_one_line(parity):
    parity("libtpu")
    with pytest.raises(UserError, match="'v5e:3x5' is no slice: .*not divisible") as error:
        tpu_slices.devices_of("v5e:3x5")
    assert "\n" not in str(error.value)


def test_without_the_compiler_it_is_said_where_to_get_it(monkeypatch):
    def missing(**_):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology")

    monkeypatch.setattr(tpu_slices.topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match="pip install libtpu"):
        tpu_slices.devices_of("v5e:2x4")


def test_bad_values_get_one_line_before_compiling(monkeypatch):
    devices = jax.devices()
    chip = tpu_slices.CHIPS["v5e"]
    monkeypatch.setattr(tpu_slices, "devices_of", lambda topology: (chip, devices))
    for key, value, message in (
        ("mesh.fsdp", 3, "mesh.fsdp=3: .* divisor of the 8 devices"),
        ("train.batch_size", 24, "divisible by 16"),
        ("mask.ratio", 1.5, "mask.ratio=1.5"),
        ("data.name", "digit", "data.name='digit' is not a known data set; did you mean"),
        ("data.name", "folder", "needs a section data.files"),
        ("data.feed", "foo", "data.feed='foo'"),
        ("compute.attention", "cudnn", "invalid compute.attention='cudnn'"),
    ):
        config = imae.get_config("digits,runlocal")
        config.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=message):
            plan.plan(config, "v5e:2x4")


def test_a_start_from_the_teacher_needs_none_here():
    config = imae.get_config("imagenet")
    config.loss.distill_weight = 0.0
    assert config.init == "teacher"
    plan.check(plan.adapted(config, "tpu"), 8, "tpu")
