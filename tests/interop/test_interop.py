"""Weights in and out: every format there and back, and what is refused."""

import argparse
import dataclasses
import functools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import safetensors.numpy
from ml_collections import ConfigDict
from small_inputs import make_folder

import imae_jax
from configs import imae, mae, transfer
from imae_jax import evaluation
from imae_jax.distributed import sharding
from imae_jax.errors import UserError
from imae_jax.interop import (
    export_weights,
    huggingface,
    import_weights,
    native_format,
    read_files,
    state_dict,
)
from imae_jax.models import masking, patches
from imae_jax.models.forward import forward
from imae_jax.models.layers import Compute
from imae_jax.objectives import losses
from imae_jax.storage import atomic_files, pytrees
from imae_jax.storage.workdir import read_config
from imae_jax.training import trained_run
from imae_jax.training.loop import train
from imae_jax.training.state import init_params

ROOT = Path(__file__).parents[2]
PRESETS = {
    "mae": mae.get_config("imagenet"),
    "imae": imae.get_config("imagenet"),
    "classifier": transfer.get_config("imagenet,finetune"),
    "encoder": transfer.get_config("imagenet,linear"),
}
# Of the runs below: their widths have no usual number of heads.
HEADS = dict(num_heads=2, decoder_num_heads=2)


@pytest.fixture(scope="session")
def workdirs(teacher, student, imae_config, transfer_config, tmp_path_factory):
    """A trained run of every kind."""
    folder = tmp_path_factory.mktemp("kinds")
    config = imae_config()
    config.loss.branches = "subordinate"
    train(config, folder / "subordinate")
    config = imae_config()
    config.model.decoder.attention, config.loss.predict_fraction = "cross", 0.5
    train(config, folder / "cross")
    for mode in ("linear", "finetune"):
        train(transfer_config(mode), folder / mode)
    found = {x: folder / x for x in ("subordinate", "cross", "linear", "finetune")}
    return found | {"mae": teacher, "imae": student}


def load(workdir):
    return trained_run.load_run(workdir, "workdir", sharding.make_mesh())


def import_file(path, workdir, **options):
    return import_weights.import_file(path, workdir, PRESETS, **options)


def same_model(a, b):
    """In all but the types that it is computed in."""
    return a.model.clone(compute=Compute()) == b.model.clone(compute=Compute())


def assert_same_run(a, b):
    assert_same(a.params, b.params)
    assert same_model(a, b)
    assert a.config.loss.norm_pix == b.config.loss.norm_pix
    assert a.config.mask.ratio == b.config.mask.ratio
    for name in ("mean", "std"):
        np.testing.assert_allclose(a.meta[name], b.meta[name], rtol=1e-6)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    "kind", ["mae", "imae", "subordinate", "cross", "linear", "finetune"]
)
def test_our_own_file_there_and_back(kind, workdirs, tmp_path):
    out = tmp_path / "weights.safetensors"
    export_weights.export(workdirs[kind], "safetensors", out)
    import_file(out, tmp_path / "run")
    before, after = load(workdirs[kind]), load(tmp_path / "run")
    assert_same(before.params, after.params)
    assert_same(before.batch_stats, after.batch_stats)
    assert same_model(before, after) and before.step == after.step
    for key in ("mean", "std", "class_names", "image_shape", "teacher"):
        assert before.meta[key] == after.meta[key]
    # Nothing of the machine that it was trained on.
    assert str(workdirs[kind].parent) not in out.read_bytes().decode("latin1")
    assert "/" not in after.config.data.dir


def test_half_the_size_in_bfloat16(workdirs, tmp_path):
    for dtype in ("float32", "bfloat16"):
        export_weights.export(
            workdirs["mae"], "safetensors", tmp_path / f"{dtype}.safetensors", dtype
        )
    sizes = {
        x: (tmp_path / f"{x}.safetensors").stat().st_size for x in ("float32", "bfloat16")
    }
    assert sizes["bfloat16"] < 0.7 * sizes["float32"]
    short = imae_jax.load(tmp_path / "bfloat16.safetensors").params
    rounded = jax.tree.map(
        lambda x: np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32),
        load(workdirs["mae"]).params,
    )
    assert_same(jax.device_get(short), rounded)


@pytest.mark.parametrize("kind", ["mae", "imae", "subordinate"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_releases_file_there_and_back(parity, kind, suffix, workdirs, tmp_path):
    parity("torch")
    out = tmp_path / f"weights{suffix}"
    export_weights.export(workdirs[kind], "imae_torch", out)
    names = set(read_files.read(out).arrays)
    assert ("decoder_embed1.weight" in names) == (kind == "imae")
    assert "decoder_embed.weight" in names  # theirs has one always
    said = import_file(out, tmp_path / "run")  # ours says heads and all
    assert ("the authors' release" in said) == (kind != "mae")
    assert_same_run(load(workdirs[kind]), load(tmp_path / "run"))


@pytest.mark.parametrize("kind", ["imae", "subordinate"])
def test_the_authors_own_files(parity, kind, workdirs, tmp_path):
    """As their script writes them: heads are not said, and its norm_pix does nothing."""
    torch = parity("torch")
    export_weights.export(workdirs[kind], "imae_torch", tmp_path / "ours.pth")
    state = torch.load(tmp_path / "ours.pth", weights_only=False)  # written two lines above
    state["args"] = argparse.Namespace(
        teacher_path="mae_full.pth", norm_pix_loss=True, mask_ratio=0.5, lr=None
    )
    state |= dict(optimizer={"state": {}}, epoch=3, scaler={})
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match="give --num_heads"):
        import_file(tmp_path / "theirs.pth", tmp_path / "run")
    said = import_file(tmp_path / "theirs.pth", tmp_path / "run", image_size="8", **HEADS)
    assert ("decoder_embed is left out" in said) == (kind == "imae")
    before, after = load(workdirs[kind]), load(tmp_path / "run")
    assert_same(before.params, after.params)
    assert after.model.branches == ("both" if kind == "imae" else "subordinate")
    assert not after.config.loss.norm_pix and after.config.mask.ratio == 0.5


@pytest.mark.slow
def test_norm_pix_and_mask_ratio_come_back_in_every_format(parity, imae_config, tmp_path):
    parity("torch")
    config = imae_config()
    config.loss.norm_pix, config.mask.ratio = True, 0.5
    train(config, tmp_path / "run")
    for suffix in (".pth", ".safetensors"):
        export_weights.export(tmp_path / "run", "imae_torch", tmp_path / f"w{suffix}")
        import_file(tmp_path / f"w{suffix}", tmp_path / f"from{suffix}")
        assert_same_run(load(tmp_path / "run"), load(tmp_path / f"from{suffix}"))


def test_a_folder_of_hugging_faces_there_and_back(workdirs, tmp_path):
    export_weights.export(workdirs["mae"], "hf", tmp_path / "hf")
    said = import_file(tmp_path / "hf", tmp_path / "run")
    assert "Hugging Face" in said
    assert_same_run(load(workdirs["mae"]), load(tmp_path / "run"))


def test_crossmaes_decoder_is_refused_by_name(workdirs, tmp_path):
    state = state_dict.state_dict(load(workdirs["mae"]))
    for name in [name for name in state if name.startswith("decoder_blocks.0.attn.")]:
        state[name.replace(".attn.", ".cross_attn.")] = state.pop(name)
    safetensors.numpy.save_file(state, tmp_path / "crossmae.safetensors")
    with pytest.raises(UserError, match="has cross-attention by CrossMAE's names"):
        import_file(tmp_path / "crossmae.safetensors", tmp_path / "run", **HEADS)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_hugging_faces_holds_no_cross_attention(workdirs, tmp_path):
    run = load(workdirs["mae"])
    run = dataclasses.replace(run, model=run.model.clone(decoder_attention="cross"))
    message = "decoder.attention='cross': must be 'self' for --format=hf; safetensors and"
    with pytest.raises(UserError, match=message):
        huggingface.export_hugging_face(run, tmp_path / "hf")
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_transformers_opens_our_folder_and_computes_the_same(parity, workdirs, tmp_path):
    torch, transformers = parity("torch"), parity("transformers")
    export_weights.export(workdirs["mae"], "hf", tmp_path / "hf")
    network, info = transformers.ViTMAEForPreTraining.from_pretrained(
        tmp_path / "hf", output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ours = imae_jax.load(workdirs["mae"])
    random = np.random.default_rng(0)
    images = random.normal(size=(3, 8, 8, 1)).astype(np.float32)
    noise = random.uniform(size=(3, 16)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
        theirs = network(pixels, noise=torch.from_numpy(noise))
    mask = masking.mask_from_noise(jnp.asarray(noise), network.config.mask_ratio)
    found = ours.forward(images, mask.ids_keep, mask.ids_restore)
    np.testing.assert_allclose(found["pred"], theirs.logits.numpy(), atol=2e-5)


# The names and shapes that timm publishes for a ViT of width 32, one block, patches of 2x2
# of one channel, 4x4 of them.
TIMM = {
    "cls_token": (1, 1, 32),
    "pos_embed": (1, 17, 32),
    "patch_embed.proj.weight": (32, 1, 2, 2),
    "patch_embed.proj.bias": (32,),
    "blocks.0.norm1.weight": (32,),
    "blocks.0.norm1.bias": (32,),
    "blocks.0.attn.qkv.weight": (96, 32),
    "blocks.0.attn.qkv.bias": (96,),
    "blocks.0.attn.proj.weight": (32, 32),
    "blocks.0.attn.proj.bias": (32,),
    "blocks.0.norm2.weight": (32,),
    "blocks.0.norm2.bias": (32,),
    "blocks.0.mlp.fc1.weight": (128, 32),
    "blocks.0.mlp.fc1.bias": (128,),
    "blocks.0.mlp.fc2.weight": (32, 128),
    "blocks.0.mlp.fc2.bias": (32,),
}
NORM = {"norm.weight": (32,), "norm.bias": (32,)}
FC_NORM = {"fc_norm.weight": (32,), "fc_norm.bias": (32,)}
HEAD = {"head.weight": (10, 32), "head.bias": (10,)}


@pytest.mark.parametrize(
    "kind,names",
    [
        ("mae", TIMM | NORM),
        ("imae", TIMM | NORM),
        ("cross", TIMM | NORM),
        ("finetune", TIMM | FC_NORM | HEAD),
    ],
)
def test_timms_names_and_shapes(kind, names, workdirs, tmp_path):
    out = tmp_path / "vit.safetensors"
    export_weights.export(workdirs[kind], "timm", out)
    assert {k: x.shape for k, x in read_files.read(out).arrays.items()} == names


def test_timms_encoder_there_and_back_starts_a_probe(workdirs, transfer_config, tmp_path):
    export_weights.export(workdirs["imae"], "timm", tmp_path / "vit.safetensors")
    said = import_file(tmp_path / "vit.safetensors", tmp_path / "run")
    assert "an encoder alone" in said
    before, after = load(workdirs["imae"]), load(tmp_path / "run")
    assert_same(before.params["encoder"], after.params["encoder"])
    assert before.meta["mean"] == after.meta["mean"]
    config = transfer_config("linear")
    config.init = str(tmp_path / "run")
    state = train(config, tmp_path / "probe")
    assert_same(
        jax.device_get(state.params["encoder"]), jax.device_get(before.params["encoder"])
    )
    images = np.zeros((2, 8, 8, 1), np.uint8)
    tokens = imae_jax.load(tmp_path / "run").encode(images)
    assert tokens.shape == (2, 17, 32)


def test_an_encoder_alone_is_no_teacher(workdirs, imae_config, tmp_path):
    export_weights.export(workdirs["mae"], "timm", tmp_path / "vit.safetensors")
    import_file(tmp_path / "vit.safetensors", tmp_path / "run")
    config = imae_config()
    config.teacher.init = str(tmp_path / "run")
    with pytest.raises(UserError, match="teacher is a MAE run"):
        train(config, tmp_path / "imae")


@pytest.mark.slow
def test_an_imported_mae_teaches_as_the_one_that_it_was(workdirs, imae_config, tmp_path):
    export_weights.export(workdirs["mae"], "hf", tmp_path / "hf")
    import_file(tmp_path / "hf", tmp_path / "teacher")
    states = {}
    for name, teacher in (
        ("original", workdirs["mae"]),
        ("imported", tmp_path / "teacher"),
    ):
        config = imae_config()
        config.teacher.init, config.init = str(teacher), "teacher"
        states[name] = train(config, tmp_path / name)
    assert_same(*(jax.device_get(state.params) for state in states.values()))


def test_what_is_imported_is_measured_but_not_trained(workdirs, mae_config, tmp_path):
    export_weights.export(workdirs["mae"], "safetensors", tmp_path / "w.safetensors")
    import_file(tmp_path / "w.safetensors", tmp_path / "run")
    with pytest.raises(UserError, match="imported"):
        train(mae_config(), tmp_path / "run")
    config = read_config(tmp_path / "run")
    config.data.dir = mae_config().data.dir
    config.data.evaluate_on.update(dict(train=100, validation=100, test=100))
    config.evals = ConfigDict({"reconstruction": config.evals.reconstruction.to_dict()})
    numbers = evaluation.evaluate(config, tmp_path / "run")
    assert 0 < numbers["reconstruction/ratio"] < 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagenet2012", "folder"])
def test_an_imported_mae_is_measured_on_files_of_images(name, workdirs, tmp_path):
    """At its own size and channels; on mixtures, too, against its own latents."""
    names = [f"{split}/{label}" for split in ("train", "val") for label in "ab"]
    make_folder(
        tmp_path / "data", *(f"{name}/{i}.png" for name in names for i in range(30))
    )
    export_weights.export(workdirs["mae"], "hf", tmp_path / "hf")
    import_file(tmp_path / "hf", tmp_path / "run")
    config = read_config(tmp_path / "run")
    config.data.update(dict(name=name, dir=str(tmp_path / "data")))
    config.evals.probes.lars.update(dict(epochs=2, warmup_epochs=1))
    numbers = evaluation.evaluate(config, tmp_path / "run")
    assert {key.partition("/")[0] for key in numbers} == {
        "reconstruction",
        "separability",
        "probes",
    }
    assert numbers["separability/subordinate/r2_null"] == pytest.approx(0.155, abs=1e-3)
    assert "separability/baselines/random/gain" in numbers
    # It is its own teacher: no second row of the same numbers.
    assert not [key for key in numbers if "mae_on_mixture" in key]


def save_pth(torch, path, arrays, **rest):
    model = {name: torch.from_numpy(np.array(x)) for name, x in arrays.items()}
    torch.save({"model": model, **rest}, path)


def trained_on_shades(network, norm_pix):
    """A MAE's parameters after a few steps on grey images of any brightness, with noise."""
    optimizer = optax.adam(3e-3)

    def loss_of(params, key):
        keys = jax.random.split(key, 3)
        shades = jax.random.normal(keys[0], (32, 1, 1, 1))
        images = shades + 0.3 * jax.random.normal(keys[1], (32, 8, 8, 1))
        mask = masking.random_mask(keys[2], 32, 16, 0.5)
        target = patches.patchify(images, 2)
        target = losses.normalize_patches(target) if norm_pix else target
        out = forward(network, params, images, mask)
        return losses.mae_losses(out, target, mask.mask)[0]

    @jax.jit
    def step(params, state, key):
        updates, state = optimizer.update(jax.grad(loss_of)(params, key), state)
        return optax.apply_updates(params, updates), state

    params = init_params(network, 0)
    state = optimizer.init(params)
    for number in range(150):
        params, state = step(params, state, jax.random.key(number))
    return params


@pytest.mark.slow
@pytest.mark.parametrize("norm_pix", [False, True])
def test_pixels_and_normalized_patches_are_told_apart(parity, norm_pix, workdirs, tmp_path):
    """`mae_visualize_*` and `*_full` have the same arrays, and no word about it."""
    torch, run = parity("torch"), load(workdirs["mae"])
    params = trained_on_shades(run.model, norm_pix)
    arrays = state_dict.state_dict(dataclasses.replace(run, params=params))
    save_pth(torch, tmp_path / "mae.pth", arrays)
    import_file(tmp_path / "mae.pth", tmp_path / "run", **HEADS)
    assert read_config(tmp_path / "run").loss.norm_pix == norm_pix
    import_file(tmp_path / "mae.pth", tmp_path / "said", norm_pix=not norm_pix, **HEADS)
    assert read_config(tmp_path / "said").loss.norm_pix != norm_pix
    # Their training script's own word counts more than the guess.
    args = argparse.Namespace(norm_pix_loss=not norm_pix)
    save_pth(torch, tmp_path / "args.pth", arrays, args=args)
    import_file(tmp_path / "args.pth", tmp_path / "args", **HEADS)
    assert read_config(tmp_path / "args").loss.norm_pix != norm_pix


def test_positions_are_computed_for_another_size_and_that_is_said(
    workdirs, tmp_path, capsys
):
    export_weights.export(workdirs["mae"], "imae_torch", tmp_path / "w.safetensors")
    import_file(tmp_path / "w.safetensors", tmp_path / "run", image_size="12x8", **HEADS)
    assert "computed anew for 6x4 patches, the file has 4x4" in capsys.readouterr().out
    run = load(tmp_path / "run")
    assert run.model.image_size == (12, 8)
    assert_same(run.params, load(workdirs["mae"]).params)


@pytest.mark.parametrize("length", [0x80, 0x280, 0x480, 0xD80])
def test_a_header_whose_length_begins_like_a_pickle(length, tmp_path):
    """One safetensors file in 32: lengths are multiples of 8, and a pickle begins 0x80."""
    path = tmp_path / "w.safetensors"
    arrays = {"a": np.ones(3, np.float32)}
    plain = len(json.dumps(dict(args="", format="pt")))
    for padding in range(length + plain):
        metadata = {"format": "pt", "args": json.dumps({"note": "x" * padding})}
        data = safetensors.numpy.save(arrays, metadata)
        if int.from_bytes(data[:8], "little") >= length:
            break
    assert int.from_bytes(data[:8], "little") == length
    path.write_bytes(data)
    found = read_files.read(path)
    assert found.args == {"note": "x" * padding}
    np.testing.assert_array_equal(found.arrays["a"], arrays["a"])


def test_positions_of_as_many_patches_in_another_shape(workdirs, tmp_path, capsys):
    export_weights.export(workdirs["mae"], "imae_torch", tmp_path / "w.safetensors")
    import_file(tmp_path / "w.safetensors", tmp_path / "run", image_size="4x16")
    assert "anew for 2x8 patches, the file has 4x4" in capsys.readouterr().out
    export_weights.export(tmp_path / "run", "imae_torch", tmp_path / "wide.safetensors")
    import_file(tmp_path / "wide.safetensors", tmp_path / "wide")
    assert load(tmp_path / "wide").model.image_size == (4, 16)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_file_of_half_the_precision(dtype, workdirs, tmp_path):
    export_weights.export(workdirs["mae"], "imae_torch", tmp_path / "w.safetensors")
    contents = read_files.read(tmp_path / "w.safetensors")
    short = {k: x.astype(jnp.dtype(dtype)) for k, x in contents.arrays.items()}
    data = safetensors.numpy.save(short, contents.metadata)
    (tmp_path / "short.safetensors").write_bytes(data)
    import_file(tmp_path / "short.safetensors", tmp_path / "run")
    close = functools.partial(np.testing.assert_allclose, atol=1e-2)
    pair = load(tmp_path / "run").params, load(workdirs["mae"]).params
    jax.tree.map(close, *pair)


@pytest.fixture
def weights(workdirs, tmp_path):
    """A MAE's arrays by MAE's names, and a function that imports them after a change."""
    arrays = state_dict.state_dict(load(workdirs["mae"]))

    def refused(match, **options):
        path = tmp_path / "w.safetensors"
        path.write_bytes(safetensors.numpy.save(arrays))
        with pytest.raises(UserError, match=match):
            import_file(path, tmp_path / "run", **(HEADS | options))
        assert not (tmp_path / "run").exists()

    return arrays, refused


def test_what_does_not_fit_is_named(weights):
    arrays, refused = weights
    kept = dict(arrays)
    arrays["blocks.0.attn.qkv_weight"] = arrays.pop("blocks.0.attn.qkv.weight")
    refused(
        "missing blocks.0.attn.qkv.weight; unexpected blocks.0.attn.qkv_weight",
        norm_pix=True,
    )
    arrays |= kept
    del arrays["blocks.0.attn.qkv_weight"]
    arrays["blocks.0.mlp.fc1.weight"] = np.ascontiguousarray(
        kept["blocks.0.mlp.fc1.weight"].T
    )
    refused(r"blocks.0.mlp.fc1.weight is float32\[32, 128\], should be float32\[128, 32\]")
    arrays |= kept
    arrays |= {k.replace(".0.", ".3."): x for k, x in kept.items() if ".0." in k}
    refused("missing blocks.1.attn.proj.bias")


def test_a_model_that_cannot_be_had_here(weights):
    arrays, refused = weights
    refused("a width of 32 has no usual number: give --num_heads", num_heads=None)
    refused("give --decoder_num_heads", decoder_num_heads=None)
    refused("9x9 is not divisible by patch size 2", image_size="9")
    refused("give HEIGHT or HEIGHTxWIDTH", image_size="8x8x8")
    refused("divisible", num_heads=5)
    kept = dict(arrays)
    for name in ("pos_embed", "decoder_pos_embed"):
        width = kept[name].shape[-1]
        for wrong, message in (
            (np.flip(kept[name]).copy(), "not MAE's fixed position embedding"),
            (kept[name] + (np.arange(17) == 0)[None, :, None], "not MAE's fixed"),
            (kept[name][:, :1], rf"is \[1, 1, {width}\], .* \[1, 1 \+ L, {width}\]"),
            (kept[name][:, :-3], "of 13 patches, which are no square"),
            (kept[name].repeat(2, axis=0), rf"is \[2, 17, {width}\], should be"),
        ):
            arrays[name] = wrong.astype(np.float32)
            refused(message, image_size="8", norm_pix=True)
        arrays |= kept
    arrays["norm.bias"] = np.full(32, np.nan, np.float32)
    refused("norm.bias holds values that are not finite")
    arrays["norm.bias"] = np.zeros(32, np.complex64)
    refused("norm.bias holds complex numbers")
    arrays |= kept
    arrays["blocks.300000.norm1.bias"] = np.zeros(32, np.float32)
    refused("unexpected blocks.300000")
    del arrays["blocks.300000.norm1.bias"]
    arrays |= kept
    del arrays["pos_embed"]
    refused("give --image_size=HEIGHT", norm_pix=True)
    arrays.clear()
    arrays["conv1.weight"] = np.zeros((3, 3), np.float32)
    refused("no masked autoencoder: it has no 'cls_token'")


def test_hugging_faces_folder_of_another_depth_or_kind(workdirs, tmp_path):
    export_weights.export(workdirs["mae"], "hf", tmp_path / "hf")
    config = atomic_files.read_json(tmp_path / "hf" / "config.json")
    for change, message in (
        (dict(num_hidden_layers=4), "config says depth 4, its arrays say 1"),
        (dict(num_hidden_layers=0), "invalid num_hidden_layers=0"),
        (dict(hidden_act="relu"), "invalid hidden_act='relu'"),
        (dict(layer_norm_eps=0.1), "invalid layer_norm_eps=0.1"),
        (dict(num_attention_heads="2"), "invalid num_attention_heads='2'"),
        (dict(image_size=-8), "invalid image_size=-8"),
        (dict(image_size=[8, 8, 8]), "invalid image_size=.*"),
        (dict(norm_pix_loss="yes"), "invalid norm_pix_loss='yes'"),
        (dict(mask_ratio=1.5), "invalid mask_ratio=1.5"),
        (dict(patch_size=4), "config says patch size 4, its arrays say 2"),
        (dict(num_channels=3), "config says number of channels 3, its arrays say 1"),
        (dict(model_type="vit"), "type 'vit'; it must be 'vit_mae'"),
        (dict(decoder_num_hidden_layers=9), "config says decoder depth 9"),
    ):
        atomic_files.write_json(tmp_path / "hf" / "config.json", config | change)
        with pytest.raises(UserError, match=message):
            import_file(tmp_path / "hf", tmp_path / "run")
    atomic_files.write_json(tmp_path / "hf" / "config.json", config)
    processor = tmp_path / "hf" / "preprocessor_config.json"
    stored = atomic_files.read_json(processor)
    for change, message in (
        (dict(image_mean=["a"]), "invalid image_mean=.'a'."),
        (dict(image_std=[0]), "invalid image_std=.0."),
        (dict(image_mean=[0.5, 0.5]), "must be of 1 channels"),
    ):
        atomic_files.write_json(processor, stored | change)
        with pytest.raises(UserError, match=message):
            import_file(tmp_path / "hf", tmp_path / "run")
    atomic_files.write_json(processor, stored)
    (tmp_path / "hf" / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        import_file(tmp_path / "hf", tmp_path / "run")
    (tmp_path / "hf" / "config.json").unlink()
    with pytest.raises(UserError, match="holds no config.json"):
        import_file(tmp_path / "hf", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def signed(config, contents):
    """Metadata with another config, by somebody who knows how it is written."""
    metadata = contents.metadata | dict(config=json.dumps(config))
    return metadata | dict(sha256_of_text=native_format._digest_of_text(metadata))


def test_our_own_file_with_another_depth_value_or_version(workdirs, tmp_path):
    out = tmp_path / "w.safetensors"
    export_weights.export(workdirs["imae"], "safetensors", out)
    contents = read_files.read(out)
    deeper = json.loads(contents.metadata["config"])
    deeper["model"]["encoder"]["depth"] = 16
    flipped = {k: x.copy() for k, x in contents.arrays.items()}
    flipped["params/encoder/class_token"][0] += 1e-6
    for arrays, change, message in (
        (contents.arrays, dict(config=json.dumps(deeper)), "damaged: its config or meta"),
        (contents.arrays, dict(meta="[]"), "damaged: its config or meta"),
        (contents.arrays, signed(deeper, contents), "missing params/encoder/tr.*01"),
        (contents.arrays, dict(format="imae_jax 9"), "this version reads 'imae_jax 1'"),
        (flipped, {}, "its values have another digest"),
    ):
        data = safetensors.numpy.save(arrays, contents.metadata | change)
        (tmp_path / "changed.safetensors").write_bytes(data)
        with pytest.raises(UserError, match=message):
            import_file(tmp_path / "changed.safetensors", tmp_path / "run")
        with pytest.raises(UserError, match=message):
            imae_jax.load(tmp_path / "changed.safetensors")
    with pytest.raises(UserError, match="--num_heads: .* says so itself"):
        import_file(out, tmp_path / "run", num_heads=3)
    assert not (tmp_path / "run").exists()


class Bomb:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["model", "args", "raw"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(parity, where, tmp_path):
    torch = parity("torch")
    path, bomb = tmp_path / "bomb.pth", Bomb(tmp_path / "exploded")
    if where == "raw":
        path.write_bytes(pickle.dumps(bomb))
    else:
        content = {"model": {"cls_token": torch.zeros(1)}, "args": argparse.Namespace()}
        content[where] = bomb
        torch.save(content, path)
    with pytest.raises(UserError, match="is refused: it holds more than arrays"):
        import_file(path, tmp_path / "run")
    assert sorted(os.listdir(tmp_path)) == ["bomb.pth"]


@pytest.mark.parametrize(
    "format,suffix", [("safetensors", ".safetensors"), ("imae_torch", ".pth")]
)
def test_a_truncated_file_is_named(parity, format, suffix, workdirs, tmp_path):
    parity("torch")
    out = tmp_path / f"w{suffix}"
    export_weights.export(workdirs["mae"], format, out)
    data = out.read_bytes()
    for size in (0, 5, 100, len(data) // 2, len(data) - 1):
        out.write_bytes(data[:size])
        with pytest.raises(UserError, match="is no (whole|checkpoint)"):
            import_file(out, tmp_path / "run", **HEADS)
    assert not (tmp_path / "run").exists()


def test_odd_files_of_pytorchs(parity, workdirs, tmp_path):
    torch = parity("torch")
    arrays = state_dict.state_dict(load(workdirs["mae"]))
    tensors = {k: torch.nn.Parameter(torch.from_numpy(x)) for k, x in arrays.items()}
    torch.save({"state_dict": tensors, "args": None}, tmp_path / "parameters.pth")
    import_file(tmp_path / "parameters.pth", tmp_path / "run", norm_pix=True, **HEADS)
    assert_same(load(tmp_path / "run").params, load(workdirs["mae"]).params)
    for name, value in (
        ("sparse", torch.eye(3).to_sparse()),
        ("meta", torch.zeros(3, device="meta")),
    ):
        torch.save({"model": {"cls_token": value}}, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=f"{name}.pth (holds arrays|is no whole)"):
            import_file(tmp_path / f"{name}.pth", tmp_path / "none")


def test_an_import_that_fails_can_be_made_again(workdirs, tmp_path, monkeypatch):
    export_weights.export(workdirs["mae"], "safetensors", tmp_path / "w.safetensors")

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(import_weights.atomic_files, "write_json", full)
        with pytest.raises(OSError):
            import_file(tmp_path / "w.safetensors", tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    import_file(tmp_path / "w.safetensors", tmp_path / "run")


def test_the_best_of_what_says_no_loss(workdirs, tmp_path):
    export_weights.export(workdirs["mae"], "safetensors", tmp_path / "w.safetensors")
    import_file(tmp_path / "w.safetensors", tmp_path / "run")
    with pytest.raises(UserError, match="no checkpoint says its loss"):
        imae_jax.load(tmp_path / "run", step="best")
    with pytest.raises(UserError, match="is a file, which holds one step"):
        imae_jax.load(tmp_path / "w.safetensors", step=3)


def test_imported_classes_have_to_be_those_of_the_data(workdirs, tmp_path):
    export_weights.export(workdirs["finetune"], "safetensors", tmp_path / "w.safetensors")
    import_file(tmp_path / "w.safetensors", tmp_path / "run")
    config = read_config(tmp_path / "run")
    config.data.dir = read_config(workdirs["finetune"]).data.dir
    assert evaluation.evaluate(config, tmp_path / "run")
    meta = load(tmp_path / "run").meta
    renamed = dict(meta) | {"class_names": [f"animal {n}" for n in range(10)]}
    arrays = {"params": load(tmp_path / "run").params}
    import_weights.write_run(
        tmp_path / "animals", config, arrays, renamed, dict(file="w.safetensors", sha256="")
    )
    with pytest.raises(UserError, match="its class_names was"):
        evaluation.evaluate(read_config(tmp_path / "animals"), tmp_path / "animals")


def test_what_is_no_checkpoint(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("epoch 1: loss 0.3")
    with pytest.raises(UserError, match="is no checkpoint: it begins like neither"):
        import_file(text, tmp_path / "run")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        import_file(tmp_path / "absent.pth", tmp_path / "run")


def test_nothing_is_overwritten(workdirs, tmp_path):
    out = tmp_path / "w.safetensors"
    export_weights.export(workdirs["mae"], "safetensors", out)
    before = out.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        export_weights.export(workdirs["imae"], "safetensors", out)
    assert out.read_bytes() == before
    import_file(out, tmp_path / "run")
    config = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(UserError, match="holds a run already"):
        import_file(out, tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_bytes() == config


def test_what_cannot_be_exported(workdirs, tmp_path):
    for kind, format, name, options, message in (
        (
            "imae",
            "hf",
            "hf",
            {},
            "a ViTMAE has one head and a decoder, and this is an i-MAE",
        ),
        ("linear", "timm", "a.pth", {}, "no place for a probe's BatchNorm"),
        ("finetune", "imae_torch", "a.pth", {}, "no classifier"),
        (
            "cross",
            "imae_torch",
            "a.pth",
            {},
            "invalid model.decoder.attention='cross': must be 'self' for --format=imae_t",
        ),
        ("mae", "onnx", "a", {}, "formats: safetensors, timm"),
        ("mae", "safetensors", "a.bin", {}, "must end in .safetensors"),
        ("mae", "hf", "a", dict(dtype="bfloat16"), "invalid --dtype='bfloat16'"),
        ("mae", "safetensors", "no/a.safetensors", {}, "there is no folder"),
        ("mae", "safetensors", "a.safetensors", dict(step="last"), "a number, or best"),
        ("mae", "safetensors", "a.safetensors", dict(step="7"), "7 is no .*there are 4"),
    ):
        with pytest.raises(UserError, match=message):
            export_weights.export(workdirs[kind], format, tmp_path / name, **options)
    assert not os.listdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["imae", "cross", "finetune"])
def test_a_program_runs_without_our_code(kind, workdirs, tmp_path):
    export_weights.export(workdirs[kind], "stablehlo", tmp_path / "program")
    about = atomic_files.read_json(tmp_path / "program" / "programs.json")
    assert about["jax"] == jax.__version__ and "six months" in about["expires"]
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    programs = {
        name: jax.export.deserialize(bytearray((tmp_path / "program" / name).read_bytes()))
        for name in about["programs"]
    }
    for blob in (tmp_path / "program").glob("*.stablehlo"):
        assert str(ROOT).encode() not in blob.read_bytes()
    run, random = load(workdirs[kind]), np.random.default_rng(0)
    for count in (1, 5):  # of any batch size
        images = random.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
        if kind == "finetune":
            x = (images - np.array(run.meta["mean"])) / np.array(run.meta["std"])
            variables = {"params": run.params, "batch_stats": run.batch_stats}
            network = run.model.clone(compute=Compute())
            wanted = network.apply(variables, x.astype(np.float32), is_training=False)
            found = programs["classify.stablehlo"].call(images)
            np.testing.assert_allclose(found["mean"], wanted["mean"], atol=1e-5)
            continue
        ours = imae_jax.load(workdirs[kind])
        found = programs["encode.stablehlo"].call(images)
        np.testing.assert_allclose(found, ours.encode(images), atol=1e-5)
        mask = masking.random_mask(jax.random.key(0), count, 16, 0.25)
        x = random.normal(size=(count, 8, 8, 1)).astype(np.float32)
        inputs = x, mask.ids_keep, mask.ids_restore
        found = programs["forward.stablehlo"].call(*inputs)
        for name, value in ours.forward(*inputs).items():
            np.testing.assert_allclose(found[name], value, atol=1e-5)


def main(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_on_the_command_line(workdirs, tmp_path):
    out = tmp_path / "w.safetensors"
    ended = main("export", f"--workdir={workdirs['imae']}", f"--out={out}", "--step=best")
    assert ended.returncode == 0, ended.stderr
    digest = pytrees.digest({"params": load(workdirs["imae"]).params})
    assert digest in ended.stdout
    ended = main("import", f"--checkpoint={out}", f"--workdir={tmp_path / 'run'}")
    assert ended.returncode == 0, ended.stderr
    assert "exported from here" in ended.stdout and str(tmp_path / "run") in ended.stdout
    for arguments, message in (
        (["import", f"--workdir={tmp_path / 'a'}"], "import needs --checkpoint=PATH"),
        (["export", f"--workdir={tmp_path / 'run'}"], "export needs --out=PATH"),
        (["train", "--out=x", f"--workdir={tmp_path / 'a'}"], "--out is for export"),
        (
            ["import", f"--checkpoint={__file__}", f"--workdir={tmp_path / 'a'}"],
            "is no checkpoint",
        ),
    ):
        ended = main(*arguments)
        assert ended.returncode == 1 and message in ended.stderr
        assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "a").exists()
