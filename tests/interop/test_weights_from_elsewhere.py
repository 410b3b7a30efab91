"""Weights as other projects leave them, damaged or wrapped: right, or one clear line."""

import argparse
import io
import json
import zipfile
from pathlib import Path, PosixPath

import jax
import numpy as np
import pytest
import safetensors.numpy

import imae_jax
from configs import imae, mae, transfer
from imae_jax.errors import UserError
from imae_jax.interop import (
    architecture,
    attention_heads,
    huggingface,
    import_weights,
    metadata,
    native_format,
    read_files,
    state_dict,
)
from imae_jax.models.factory import build_model
from imae_jax.storage import pytrees
from imae_jax.training import trained_run

PRESETS = {
    "mae": mae.get_config("imagenet"),
    "imae": imae.get_config("imagenet"),
    "classifier": transfer.get_config("imagenet,finetune"),
    "encoder": transfer.get_config("imagenet,linear"),
}
OPTIONS = dict(num_heads=2, decoder_num_heads=2, norm_pix=True)
META = dict(image_shape=[8, 8, 1], mean=[30.0], std=[50.0], class_names=["a", "b"])


def make_run(config, **sections):
    """A run with random parameters, which nobody trained."""
    config = config.copy_and_resolve_references()
    config.compute.dtype = "float32"
    config.model.update(variant="mu/2")
    config.model.encoder.update(width=32, depth=2, heads=2)
    if "decoder" in config.model:
        config.model.decoder.update(width=16, depth=1, heads=2)
    config.update(sections)
    model = build_model(config, (8, 8, 1), 2)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: random.normal(size=x.shape).astype(np.float32),
        trained_run.abstract_variables(model)["params"],
    )
    return trained_run.TrainedRun(Path("run"), config, model, params, 4, META, "")


@pytest.fixture(scope="module")
def run():
    return make_run(mae.get_config("digits,runlocal"))


@pytest.fixture(scope="module")
def arrays(run):
    return state_dict.state_dict(run)


def test_an_export_lacks_the_paths_of_its_machine_and_nothing_else():
    config = imae.get_config("folder,runlocal")
    known = config.to_dict()
    config.data.dir = config.data.files.label_maps = "/home/me/photos"
    config.teacher.init = config.init = "/home/me/runs/teacher"
    config.evals.separability.teacher = "/home/me/runs/other"
    config.evals.separability.baseline_runs.without_distillation = "/home/me/runs/third"
    assert native_format.without_paths(config).to_dict() == known
    config.init = "teacher"
    assert native_format.without_paths(config).init == "teacher"


@pytest.fixture
def native(run, tmp_path):
    path = tmp_path / "w.safetensors"
    native_format.write(path, run, "float32")
    return path


@pytest.fixture
def save(parity, tmp_path):
    """Saves a nest of arrays as a file of PyTorch's."""
    torch = parity("torch")

    def convert(value):
        if isinstance(value, dict):
            return {key: convert(item) for key, item in value.items()}
        is_array = isinstance(value, np.ndarray) and value.dtype != object
        return torch.from_numpy(np.array(value)) if is_array else value

    def write(nest, **options):
        torch.save(convert(nest), tmp_path / "w.pth", **options)
        return tmp_path / "w.pth"

    return write


def take(path, **options):
    """Parameters and description of what a file holds, as `import_file` has them."""
    found = architecture.detect(read_files.read(path), **(OPTIONS | options))
    _, params, _ = import_weights.as_run(found, PRESETS[found.kind])
    return params, " ".join([found.source, *found.notes])


def assert_same(a, b):
    a, b = pytrees.tree_leaves(a), pytrees.tree_leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def encoder_of(arrays):
    return {k: x for k, x in arrays.items() if "decoder" not in k and k != "mask_token"}


def prefixed(arrays, prefix):
    return {prefix + name: x for name, x in arrays.items()}


WRAPPED = {
    "module.": lambda x: prefixed(x, "module."),
    "_orig_mod.": lambda x: {"model": prefixed(x, "_orig_mod.module.")},
    "nest": lambda x: {"state_dict": {"module": {"backbone": prefixed(x, "net.")}}},
    "lightning": lambda x: {"epoch": 3, "state_dict": prefixed(x, "model.encoder.")},
    "mid": lambda x: {
        k.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."): v for k, v in x.items()
    },
    "optimizer": lambda x: {"model": x, "optimizer": {"state": {"exp_avg": x}}},
    **{
        key: lambda x, key=key: {key: x, "epoch": 1}
        for key in ("model", "state_dict", "model_state_dict", "module", "params", "ema")
    },
    "one of two": lambda x: {"model": {"fc.weight": x["norm.bias"]}, "state_dict_ema": x},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_are_taken_off_and_named(kind, run, arrays, save):
    params, said = take(save(WRAPPED[kind](arrays)))
    assert_same(params, run.params)
    assert "its weights stand under '" in said


@pytest.mark.parametrize("name", ["model.", "module.encoder."])
def test_prefixes_in_safetensors(name, run, arrays, tmp_path):
    path = tmp_path / "w.safetensors"
    other = {"neck.weight": np.ones(3, np.float32)}
    path.write_bytes(safetensors.numpy.save(prefixed(arrays, name) | other))
    params, said = take(path)
    assert_same(params, run.params)
    assert f"stand under '{name.strip('.')}'; not used: neck.weight" in said


@pytest.mark.parametrize(
    "keys", [("model", "model_ema"), ("student", "teacher"), ("state_dict", "ema")]
)
def test_two_models_in_a_file_are_named(keys, arrays, save):
    with pytest.raises(UserError, match=f"2 models, at {'.*'.join(sorted(keys))}.*save"):
        take(save({key: {k: x + 1 for k, x in arrays.items()} for key in keys}))
    with pytest.raises(UserError, match="with and without the wrappers"):
        names = {"module.blocks.0.norm1.bias": arrays["norm.bias"]}
        take(save({"model": arrays | names}))


def test_what_scripts_pickle_beside_weights(run, arrays, save):
    settings = argparse.Namespace(lr=np.float64(0.1), out=PosixPath("a"), n=np.int64(3))
    beside = dict(best=np.float32(0.5), rng=np.arange(3).astype(object), args=settings)
    beside["args"].mask_ratio = np.float64(0.5)
    path = save({"model": arrays} | beside)
    params, _ = take(path)
    assert_same(params, run.params)
    contents = read_files.read(path)
    assert contents.args["mask_ratio"] == 0.5 and contents.args["n"] == 3
    assert type(contents.args["mask_ratio"]) is float


def test_an_unknown_type_is_named(arrays, save):
    with pytest.raises(UserError, match=r"state_dict\(\) alone.*fractions.Fraction"):
        import fractions

        take(save({"model": arrays, "x": fractions.Fraction(1, 2)}))


def test_a_fine_tuned_classifier_and_its_head(parity, save, tmp_path):
    run = make_run(transfer.get_config("digits,finetune,runlocal"))
    encoder = encoder_of(state_dict.state_dict(run))
    norm, head = run.params["fc_norm"], run.params["head_mean"]
    own = {"fc_norm.weight": norm["scale"], "fc_norm.bias": norm["bias"]}
    own |= {"head.weight": head["kernel"].T, "head.bias": head["bias"]}
    only_encoder = dict(norm_pix=None, decoder_num_heads=None)
    params, said = take(save({"model": encoder | own}), **only_encoder)
    assert_same(params, run.params)
    assert "a fine-tuned classifier" in said and "its 2 classes" in said
    del own["head.weight"]
    with pytest.raises(UserError, match="ends with fc_norm, .* no head.weight"):
        take(save(encoder | own), **only_encoder)
    with pytest.raises(UserError, match="--decoder_num_heads: this is an encoder"):
        take(save(encoder | own))


def test_another_head_is_left_out_and_named(run, arrays, save):
    head = {"head.1.weight": np.ones((3, 32), np.float32)}
    path = save(encoder_of(arrays) | head)
    params, said = take(path, norm_pix=None, decoder_num_heads=None)
    assert_same(params, {"encoder": run.params["encoder"]})
    assert "a head is left out: head.1.weight" in said
    # As MAE's linear probe writes it: BatchNorm counts its batches, in an integer.
    head |= {"head.0.num_batches_tracked": np.array(7), "head.0.running_mean": np.ones(32)}
    path = save(encoder_of(arrays) | head)
    params, said = take(path, norm_pix=None, decoder_num_heads=None)
    assert_same(params, {"encoder": run.params["encoder"]})
    assert "a head is left out: head.0.running_mean, head.1.weight" in said


def test_assumed_numbers_of_heads_are_said():
    found = attention_heads.num_heads(None, None, {192: 3}, 192, "num_heads")
    note = "3 heads are assumed, as usual for width 192: --num_heads says otherwise"
    assert found == (3, [note])
    for given, said in ((12, None), (None, 12), (12, 12)):
        assert attention_heads.num_heads(given, said, {192: 3}, 192, "n") == (12, [])
    with pytest.raises(UserError, match="a width of 64 has no usual number: give --n"):
        attention_heads.num_heads(None, None, {192: 3}, 64, "n")
    with pytest.raises(UserError, match="invalid n=6: the file says 12; leave it out"):
        attention_heads.num_heads(6, 12, {192: 3}, 192, "n")


def test_the_note_on_heads_is_among_those_of_the_file(save):
    size = dict(encoder=dict(width=192, heads=3))
    wide = make_run(mae.get_config("digits,runlocal"), model=size)
    _, said = take(save(encoder_of(state_dict.state_dict(wide))), **ENCODER_ONLY)
    assert "3 heads are assumed" in said


def test_lacking_positions_are_said_to_be_assumed(arrays, save, caplog):
    encoder = encoder_of(arrays)
    del encoder["pos_embed"]
    path = save(encoder)
    options = dict(norm_pix=None, decoder_num_heads=None)
    with pytest.raises(UserError, match="give --image_size"):
        take(path, **options)
    with caplog.at_level("INFO"):
        take(path, image_size=(8, 8), **options)
    assert "the file has no pos_embed: MAE's fixed one is assumed" in caplog.text


def big_vision(arrays, heads=2):
    """An encoder's arrays by big_vision's names and layouts."""
    width = 32
    found = {
        "cls": arrays["cls_token"],
        "pos_embedding": arrays["pos_embed"][:, 1:],
        "embedding/kernel": arrays["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": arrays["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": arrays["norm.weight"],
        "Transformer/encoder_norm/bias": arrays["norm.bias"],
    }
    for layer in range(2):
        ours, theirs = f"blocks.{layer}.", f"Transformer/encoderblock_{layer}/"
        for n in (0, 1):
            for kind, name in (("scale", "weight"), ("bias", "bias")):
                found[f"{theirs}LayerNorm_{n}/{kind}"] = arrays[f"{ours}norm{n + 1}.{name}"]
            dense = f"{theirs}MlpBlock_0/Dense_{n}/"
            found[f"{dense}kernel"] = arrays[f"{ours}mlp.fc{n + 1}.weight"].T
            found[f"{dense}bias"] = arrays[f"{ours}mlp.fc{n + 1}.bias"]
        attention = f"{theirs}MultiHeadDotProductAttention_0/"
        weights = np.split(arrays[f"{ours}attn.qkv.weight"], 3)
        biases = np.split(arrays[f"{ours}attn.qkv.bias"], 3)
        for name, w, b in zip(("query", "key", "value"), weights, biases, strict=True):
            found[f"{attention}{name}/kernel"] = w.T.reshape(width, heads, -1)
            found[f"{attention}{name}/bias"] = b.reshape(heads, -1)
        out = arrays[f"{ours}attn.proj.weight"].T
        found[f"{attention}out/kernel"] = out.reshape(heads, -1, width)
        found[f"{attention}out/bias"] = arrays[f"{ours}attn.proj.bias"]
    return found


ENCODER_ONLY = dict(num_heads=None, norm_pix=None, decoder_num_heads=None)


@pytest.mark.parametrize("prefix", ["", "params/"])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_big_visions_npz(prefix, write, run, arrays, tmp_path):
    path, named = tmp_path / "vit.npz", prefixed(big_vision(arrays), prefix)
    write(path, **named, **{"opt/0/mu/embedding/kernel": np.ones(2, np.float32)})
    params, said = take(path, **ENCODER_ONLY)
    assert_same(params, {"encoder": run.params["encoder"]})
    assert "big_vision" in said
    for name, message in (
        ("pos_embedding", "stores no pos_embedding"),
        ("cls", "no class token"),
        ("Transformer/encoderblock_1/MlpBlock_0/Dense_0/bias", "missing blocks.1.mlp.fc1"),
        ("Transformer/encoderblock_0/MultiHeadDotProductAttention_0/key/bias", "key.bias"),
    ):
        np.savez(path, **{k: x for k, x in named.items() if k != prefix + name})
        with pytest.raises(UserError, match=message):
            take(path, **ENCODER_ONLY)


def test_big_visions_arrays_that_contradict_each_other(arrays, tmp_path):
    path, named = tmp_path / "vit.npz", big_vision(arrays)
    attention = "Transformer/encoderblock_1/MultiHeadDotProductAttention_0/"
    other_heads = {
        f"{attention}{name}/{kind}": x.reshape(*x.shape[:-2], 4, -1)
        for name in ("query", "key", "value")
        for kind in ("kernel", "bias")
        for x in [named[f"{attention}{name}/{kind}"]]
    }
    same_name = {"blocks.0.norm1.weight": np.ones(32, np.float32)}
    for change, message in (
        (other_heads, r"its blocks have \[2, 4\] attention heads"),
        (same_name, "two arrays are blocks.0.norm1.weight"),
    ):
        np.savez(path, **(named | change))
        with pytest.raises(UserError, match=message):
            take(path, **ENCODER_ONLY)


def test_arrays_of_odd_kinds_and_shapes_are_named(arrays, tmp_path):
    path = tmp_path / "w.safetensors"
    token = arrays["mask_token"]
    for odd, message in (
        (token.astype(np.int64), "mask_token holds int64"),
        (token.astype(np.complex64), "mask_token holds complex numbers"),
        (token[0], r"mask_token is \[1, 16\], it should have 3 axes"),
        (token[0, 0], r"mask_token is \[16\], it should have 3 axes"),
    ):
        path.write_bytes(safetensors.numpy.save(arrays | {"mask_token": odd}))
        with pytest.raises(UserError, match=message):
            take(path)


def test_a_hugging_face_encoder_alone(run, arrays, tmp_path):
    whole = huggingface.to_hugging_face(arrays)
    encoder = {k.removeprefix("vit."): x for k, x in whole.items() if k.startswith("vit.")}
    path = tmp_path / "vit.safetensors"
    path.write_bytes(safetensors.numpy.save(encoder))
    params, _ = take(path, norm_pix=None, decoder_num_heads=None)
    assert_same(params, {"encoder": run.params["encoder"]})
    key = "encoder.layer.0.attention.attention.key.weight"
    path.write_bytes(safetensors.numpy.save(encoder | {key: encoder[key][:, 1:]}))
    with pytest.raises(UserError, match="query, key and value do not fit each other"):
        take(path, norm_pix=None, decoder_num_heads=None)


def test_records_of_pixels(run, tmp_path):
    folder = tmp_path / "hf"
    huggingface.export_hugging_face(run, folder)
    record = folder / "preprocessor_config.json"
    stated = json.loads(record.read_text())
    for options, mean, std in (
        ({}, 30.0, 50.0),
        ({"do_normalize": False}, 0.0, 255.0),
    ):
        record.write_text(json.dumps(stated | options))
        found = metadata.of_hugging_face(read_files.read(folder).config)
        np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
        np.testing.assert_allclose(found.std, std, rtol=1e-6)
    for options, message in (
        ({"do_rescale": False}, "do_rescale=False: must be true"),
        ({"rescale_factor": 1.0}, "rescale_factor=1.0: must be 1/255"),
        ({"do_normalize": 1}, "do_normalize=1: must be true or false"),
    ):
        record.write_text(json.dumps(stated | options))
        with pytest.raises(UserError, match=message):
            metadata.of_hugging_face(read_files.read(folder).config)


def write_shards(run, folder):
    huggingface.export_hugging_face(run, folder)
    whole = folder / "model.safetensors"
    state = safetensors.numpy.load_file(whole)
    whole.unlink()
    places = {}
    for number in (1, 2):
        part = dict(sorted(state.items())[number - 1 :: 2])
        name = f"model-0000{number}-of-00002.safetensors"
        (folder / name).write_bytes(safetensors.numpy.save(part))
        places |= dict.fromkeys(part, name)
    return places


def test_shards_with_an_index(run, tmp_path):
    folder = tmp_path / "hf"
    places = write_shards(run, folder)
    index = folder / "model.safetensors.index.json"
    for where in (folder, index):
        index.write_text(json.dumps(dict(metadata={}, weight_map=places)))
        assert_same(take(where)[0], run.params)
    name, place = next(iter(places.items()))
    (tmp_path / "outside.safetensors").write_bytes((folder / place).read_bytes())
    outside = {k: x if x != place else "../outside.safetensors" for k, x in places.items()}
    for changed, message in (
        (outside, "must be a file in the same folder"),
        (places | {name: "absent.safetensors"}, "must be a file in the same folder"),
        ({k: x for k, x in places.items() if k != name}, f"index says, {name}"),
        (places | {"more.weight": place}, "lacks more.weight"),
        ([], "weight_map must map"),
        ({name: 3}, "weight_map must map"),
    ):
        index.write_text(json.dumps(dict(weight_map=changed)))
        with pytest.raises(UserError, match=message):
            take(folder)


def test_files_that_are_no_weights(save, arrays, tmp_path):
    path = tmp_path / "w.pth"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "hello")
    for data, message in (
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>404", "an HTML page"),
        (b"\n <html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (b"\xff\xd8\xff\xe0", "a JPEG picture"),
        (b"\x1f\x8b\x08", "gzip archive"),
        (b"a.txt".ljust(257, b"\0") + b"ustar\0", "a tar archive"),
        (b'{"error": "denied"}', "a JSON text"),
        (b"\x89HDF\r\n", "HDF5"),
        (archive.getvalue(), "a ZIP archive of readme.txt"),
        (b"PK\x03\x04 no archive", "no whole ZIP archive"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=message):
            take(path)
    with pytest.raises(UserError, match="holds no weights.* dict of epoch"):
        take(save({"epoch": 3}))
    np.savez(tmp_path / "objects.npz", a=np.array([{"a": 1}], object))
    with pytest.raises(
        UserError, match="npz is no checkpoint: it has arrays of Python obj"
    ):
        take(tmp_path / "objects.npz")


@pytest.mark.parametrize("where", range(8))
def test_a_flipped_bit_in_a_pth_is_found(where, arrays, save):
    path = save({"model": arrays})
    data = bytearray(path.read_bytes())
    start = data.index(arrays["blocks.0.mlp.fc1.weight"].tobytes())
    data[start + 37 * where] ^= 1 << where
    path.write_bytes(data)
    with pytest.raises(UserError, match="is damaged: .* has another checksum|no whole ZIP"):
        take(path)


def test_sizes_are_compared_with_the_arrays_first(parity, run, arrays, save, tmp_path):
    torch = parity("torch")
    huge = torch.zeros(1).expand(2**16, 2**16)
    with pytest.raises(UserError, match="more values than it has bytes"):
        take(save({"model": arrays | {"norm.weight": huge}}))
    folder = tmp_path / "hf"
    huggingface.export_hugging_face(run, folder)
    config = json.loads((folder / "config.json").read_text())
    for key, message in (
        ("num_hidden_layers", "says depth 1000000000, its arrays say 2"),
        ("decoder_num_hidden_layers", "says decoder depth 1000000000"),
        ("image_size", "its pos_embed is of 16 patches"),
        ("hidden_size", "says width 1000000000, its arrays say 32"),
        ("num_attention_heads", "divisible"),
        ("patch_size", "says patch size 1000000000"),
    ):
        (folder / "config.json").write_text(json.dumps(config | {key: 10**9}))
        with pytest.raises(UserError, match=message):
            take(folder, num_heads=None)
    with pytest.raises(UserError, match="an image of at most 65,536 patches"):
        take(save({"model": arrays}), image_size=(2 * 10**9, 2 * 10**9))
    odd = np.zeros((10**9, 0, 2, 2), np.float32)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(safetensors.numpy.save(arrays | {"patch_embed.proj.weight": odd}))
    with pytest.raises(UserError, match="holds no values"):
        take(path)


def rewritten(path, change):
    """Changes arrays, config and meta of our own file, with right digests."""
    contents = read_files.read(path)
    arrays, metadata = dict(contents.arrays), dict(contents.metadata)
    parts = {key: json.loads(metadata[key]) for key in ("config", "meta")}
    change(parts, arrays)
    metadata |= {key: json.dumps(value) for key, value in parts.items()}
    for key in {"config", "meta"} - parts.keys():
        del metadata[key]
    metadata["sha256"] = pytrees.digest(arrays)
    metadata["sha256_of_text"] = native_format._digest_of_text(metadata)
    path.write_bytes(safetensors.numpy.save(arrays, metadata))


def set_encoder(**sizes):
    return lambda p, a: p["config"]["model"]["encoder"].update(sizes)


ODD = {
    "config in .* cannot be read": lambda p, a: p.pop("config"),
    "meta in .* cannot be read": lambda p, a: p.pop("meta"),
    "meta in .* holds no JSON object": lambda p, a: p.update(meta=[]),
    "no image_shape": lambda p, a: p["meta"].pop("image_shape"),
    r"invalid image_shape=\[8\]": lambda p, a: p["meta"].update(image_shape=[8]),
    r"invalid image_shape=\[0, 8, 1\]": lambda p, a: p["meta"].update(
        image_shape=[0, 8, 1]
    ),
    "at most 65,536 patches": lambda p, a: p["meta"].update(image_shape=[10**9] * 2 + [1]),
    r"invalid mean=\[nan\]": lambda p, a: p["meta"].update(mean=[float("nan")]),
    r"invalid mean=\[1e\+300\]": lambda p, a: p["meta"].update(mean=[1e300]),
    r"invalid std=\[0\]": lambda p, a: p["meta"].update(std=[0]),
    "invalid std=.*of 1 channels": lambda p, a: p["meta"].update(std=[1.0, 1.0]),
    "invalid class_names=5": lambda p, a: p["meta"].update(class_names=5),
    "invalid step=-1": lambda p, a: p["meta"].update(step=-1),
    "divisible by .* heads, 7": lambda p, a: p["config"]["model"]["encoder"].update(
        heads=7
    ),
    "invalid model.name='vae'": lambda p, a: p["config"]["model"].update(name="vae"),
    "no section model": lambda p, a: p["config"].pop("model"),
    "no section compute": lambda p, a: p["config"].update(compute=3),
    "no model.decoder.width": lambda p, a: p["config"]["model"]["decoder"].pop("width"),
    "unknown model.extra": lambda p, a: p["config"]["model"].update(extra=1),
    "no loss.norm_pix": lambda p, a: p["config"]["loss"].pop("norm_pix"),
    "invalid mask.ratio=2": lambda p, a: p["config"]["mask"].update(ratio=2),
    "encoder depth 1000000000, its arrays say 2": set_encoder(depth=10**9),
    "encoder width 1000000000": set_encoder(width=10**9),
    "class_token holds values that are not": lambda p, a: a.update(
        {"params/encoder/class_token": np.full(32, np.nan, np.float32)}
    ),
    r"its class_token is \(1, 32\)": lambda p, a: a.update(
        {"params/encoder/class_token": np.ones((1, 32), np.float32)}
    ),
    "is damaged: the names of its arrays": lambda p, a: a.update(
        {"params/encoder": np.ones(3, np.float32)}
    ),
    "class_token is int32": lambda p, a: a.update(
        {"params/encoder/class_token": np.ones(32, np.int32)}
    ),
}


@pytest.mark.parametrize("message", ODD)
def test_odd_contents_with_right_digests(message, native, tmp_path):
    rewritten(native, ODD[message])
    for use in (
        imae_jax.load,
        lambda path: import_weights.import_file(path, tmp_path / "run", PRESETS),
    ):
        with pytest.raises(UserError, match=message) as caught:
            use(native)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_run_with_odd_metadata_is_no_init(run, tmp_path):
    meta = META | dict(std=[0.0], step=0, teacher=None, sizes={})
    origin = dict(file="w", sha256="")
    arrays = {"params": run.params}
    import_weights.write_run(tmp_path / "run", run.config, arrays, meta, origin)
    with pytest.raises(UserError, match=r"invalid std=\[0.0\]"):
        imae_jax.load(tmp_path / "run")


def mutated(data, random):
    """Bytes with a flip, a run of other bytes, a cut, an insertion or a swap."""
    data = bytearray(data)
    # Half of all in the first bytes, where the formats describe themselves.
    last = len(data) if random.random() < 0.5 else min(len(data), 3000)
    place, length = random.integers(last), 1 + random.integers(16)
    kind = random.integers(5)
    if kind == 0:
        data[place] ^= 1 << random.integers(8)
    elif kind == 1:
        data[place : place + length] = random.bytes(length)
    elif kind == 2:
        del data[place : place + length]
    elif kind == 3:
        data[place:place] = random.bytes(length)
    else:
        data[place:] = b""
    return bytes(data)


def accepted_or_refused(path, read):
    """True if the file was taken; fails for anything but one line."""
    try:
        read(path)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return False
    return True


def check_mutations(path, read, seed, count=100):
    data, random = path.read_bytes(), np.random.default_rng(seed)
    taken = 0
    for _ in range(count):
        path.write_bytes(mutated(data, random))
        taken += accepted_or_refused(path, read)
    path.write_bytes(data)
    assert taken < count / 2
    assert accepted_or_refused(path, read)


def test_mutations_of_our_own_file(run, native):
    def read(path):
        found = native_format.read(read_files.read(path), path)
        assert_same(found.arrays["params"], run.params)
        assert {k: found.meta[k] for k in META} == META

    check_mutations(native, read, seed=1)
    # With right digests: any value of any key becomes another.
    random, data = np.random.default_rng(2), native.read_bytes()
    values = [None, -1, 0, 10**9, 1e400, "x", [], {}, [1, 2], True, float("nan")]
    for _ in range(60):

        def change(parts, arrays):
            where = parts["config" if random.random() < 0.5 else "meta"]
            while True:
                key = sorted(where)[random.integers(len(where))]
                if not isinstance(where[key], dict) or random.random() < 0.2:
                    break
                if not where[key]:
                    break
                where = where[key]
            where[key] = values[random.integers(len(values))]

        native.write_bytes(data)
        rewritten(native, change)
        accepted_or_refused(
            native, lambda path: native_format.read(read_files.read(path), path)
        )


def test_mutations_of_a_folder(run, tmp_path):
    folder = tmp_path / "hf"
    huggingface.export_hugging_face(run, folder)

    def read(path):
        found = architecture.detect(read_files.read(folder))
        _, params, _ = import_weights.as_run(found, PRESETS["mae"])
        assert_same(params, run.params)

    check_mutations(folder / "model.safetensors", read, seed=3)
    for name in ("config.json", "preprocessor_config.json"):
        data, random = (folder / name).read_bytes(), np.random.default_rng(4)
        for _ in range(30):
            (folder / name).write_bytes(mutated(data, random))
            accepted_or_refused(folder, read)
        (folder / name).write_bytes(data)


def test_mutations_of_a_pth(arrays, save):
    path = save({"model": arrays, "args": argparse.Namespace(lr=0.1)})

    def read(path):
        contents = read_files.read(path)
        assert_same(contents.arrays, arrays)
        assert contents.args == {"lr": 0.1}

    check_mutations(path, read, seed=5)
    data, random = path.read_bytes(), np.random.default_rng(6)
    start = data.index(b"PK\x01\x02")  # the archive's directory
    for _ in range(200):
        changed = bytearray(data)
        changed[random.integers(start, len(data))] ^= 1 << random.integers(8)
        path.write_bytes(changed)
        accepted_or_refused(path, read)


def test_a_mapping_in_itself_and_a_config_that_is_deep(native, tmp_path):
    nest = {"a": np.ones(3)}
    nest["b"] = nest
    assert list(read_files.nested_weights.flatten(nest)) == ["a"]
    with pytest.raises(UserError, match="cannot be read"):
        read_files.parse_object("[" * 100_000, "it")
