import pytest
from small_inputs import make_folder

from configs import imae, mae, transfer
from configs.datasets import PRESETS
from imae_jax.config.rules import RULES, is_number
from imae_jax.errors import UserError
from imae_jax.evaluators.config_checks import RULES as SHARED_RULES
from imae_jax.evaluators.registry import all_evaluators
from imae_jax.training import loop
from imae_jax.training.loop import train

FILES = dict(image_size=16, channels=3, centre=1.0)


def put(config, key, value):
    *sections, name = key.split(".")
    for part in sections:
        config = config[part]
    config[name] = value


def assert_refused(config, message, workdir, monkeypatch):
    """One line, before anything is compiled or written."""

    def compiled(*args):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(loop, "make_train_step", compiled)
    with pytest.raises(UserError, match=message) as error:
        train(config, workdir)
    assert "\n" not in str(error.value)
    assert not (workdir / "config.json").exists()


BAD_VALUES = [
    ("model.variant", "Ti", "'Ti' is not a variant"),
    ("model.variant", "mu/3", "image size 8x8 is not divisible by patch size 3"),
    ("model.encoder.heads", 5, "model.encoder.width=32: .* number of heads, 5"),
    ("model.encoder.depth", 0, "model.encoder.depth=0: .* at least 1"),
    ("model.decoder.width", 30, "model.decoder.width=30: .* divisible by 4"),
    ("model.decoder.width", 48, "its decoder width is 16, the student's is 48"),
    ("mask.ratio", 0.99, "mask ratio 0.99 leaves 0 of 16 patches"),
    ("mask.ratio", -0.5, r"mask.ratio=-0.5: .* in \[0, 1\)"),
    ("mask.ratio", float("inf"), "mask.ratio=inf"),
    ("mask.ratio", 0.0, "mask.ratio=0.0: .* mask at least one"),
    ("mix.alpha", 0.0, r"mix.alpha=0.0: .* \(0, 0.5\]"),
    ("mix.alpha", 0.7, "mix.alpha=0.7"),
    ("mix.sources", 1, "mix.sources=1: must be 2, 3 or 4"),
    ("mix.sources", 5, "mix.sources=5: must be 2, 3 or 4"),
    ("mix.sources", 3, "batch_size=32: must be a multiple of 3: .* groups of 3"),
    ("mix.clean_fraction", 1.0, r"mix.clean_fraction=1.0: .* in \[0, 1\)"),
    ("mix.clean_fraction", 0.99, "of a batch's 16 pairs that is one at least, not all"),
    ("mix.clean_fraction", 0.03, "of a batch's 16 pairs that is one at least, not all"),
    ("teacher.input", "images", "teacher.input='images': .* 'image' or 'mixture'"),
    ("teacher.init", "", "teacher.init is empty"),
    ("teacher.init", "nowhere", "teacher.init='nowhere': there is no such folder"),
    ("loss.branches", "dominant", "loss.branches='dominant': .* 'both' or 'subordinate'"),
    ("loss.distill_weight", -1.0, "loss.distill_weight=-1.0"),
    ("loss.contrast_weight", -1.0, "loss.contrast_weight=-1.0: .* at least 0"),
    ("loss.contrast_weight", float("inf"), "loss.contrast_weight=inf: .* at least 0"),
    ("loss.contrast_temperature", 0.0, "contrast_temperature=0.0: .* above 0 and finite"),
    ("loss.uniformity_weight", -1.0, "loss.uniformity_weight=-1.0: .* at least 0"),
    ("loss.uniformity_weight", float("nan"), "uniformity_weight=nan: .* at least 0"),
    ("loss.predict_fraction", 0.0, "loss.predict_fraction=0.0: .* in \\(0, 1\\]"),
    ("loss.predict_fraction", 1.1, "loss.predict_fraction=1.1: .* in \\(0, 1\\]"),
    (
        "loss.predict_fraction",
        0.5,
        "loss.predict_fraction=0.5: must be 1 with model.decoder.attention='self'",
    ),
    ("log.pictures_every", -1.0, "log.pictures_every=-1.0: must be at least 0"),
    ("log.pictures_every", float("nan"), "log.pictures_every=nan: must be at least 0"),
    ("mask.kind", "blocks", "mask.kind='blocks': must be 'random', 'block', 'grid' or"),
    (
        "mask.kind",
        "content",
        "content_weight=0.0: must be other than 0 with mask",
    ),
    ("mask.content_weight", 1.0, "weight=1.0: must be 0 with mask.kind='random'"),
    ("mask.content_weight", float("nan"), "content_weight=nan: must be a finite number"),
    ("model.decoder.attention", "both", "attention='both': must be 'self' or 'cross'"),
    ("init", "nowhere", "init='nowhere': there is no such folder"),
    ("train.batch_size", 33, "train.batch_size=33: .* even"),
    ("train.batch_size", 0, "train.batch_size=0"),
    ("train.batch_size", 24, "divisible by 16: whole pairs on each of 8 devices"),
    (
        "train.batch_size",
        1312,
        "=1312: .* at most 1296: the train split holds 1,297 images",
    ),
    ("train.accumulate", 0, "train.accumulate=0: .* at least 1"),
    ("train.accumulate", 4, "train.batch_size=32: .* 64: .* 4 parts .train.accumulate"),
    ("mesh.fsdp", 3, "mesh.fsdp=3: .* a divisor of the 8 devices: 1, 2, 4, 8"),
    ("mesh.fsdp", 0, "mesh.fsdp=0: .* -1 .all."),
    ("data.name", "digitz", "data.name='digitz' is not .* did you mean 'digits'"),
    ("data.feed", "stream", "data.feed='stream': .* 'auto', 'resident' or 'streaming'"),
    ("data.on_bad_image", "drop", "data.on_bad_image='drop': .* 'raise' or 'skip'"),
    ("data.resident_gb", -1.0, "data.resident_gb=-1.0: .* at least 0"),
    ("data.prefetch", 0, "data.prefetch=0: .* at least 1"),
    ("data.evaluate_on.test", 1, "data.evaluate_on.test=1: .* at least 2, or unset"),
    ("data.files", FILES | {"channels": 4}, r"files.channels=4: .* 1 \(grey\) or 3"),
    ("data.files", FILES | {"image_size": 0}, "files.image_size=0: .* at least 1"),
    ("data.files", FILES | {"image_size": "8x"}, "files.image_size='8x': .* HEIGHTxWIDTH"),
    (
        "data.files",
        FILES | {"background": "snow white"},
        "background='snow white': .* colour",
    ),
    (
        "data.files",
        FILES | {"background": "#ff000080"},
        "background='#ff000080': .* colour",
    ),
    ("data.files", FILES | {"background": "rgb(1,2,300)"}, "background=.* a colour"),
    ("data.files", FILES | {"label_maps": 1}, "files.label_maps=1: must be text"),
    ("data.files", FILES | {"centre": 0.0}, r"files.centre=0.0: .* in \(0, 1\]"),
    ("mix.same_class_rate", 1.5, r"mix.same_class_rate=1.5: .* in \[0, 1\], or unset"),
    ("train.steps_per_dispatch", 0, "train.steps_per_dispatch=0: .* at least 1"),
    ("train.total_steps", 0, "at least one step"),
    ("optim.warmup_steps", 4, "optim.warmup=4: .* shorter than the run's 4 steps"),
    ("optim.blr", 0.0, "optim.blr=0.0: .* above 0"),
    ("optim.betas", (0.9,), "two numbers"),
    ("optim.betas", ("a", "b"), "two numbers"),
    ("optim.blr", float("inf"), "optim.blr=inf"),
    ("evals.separability.split", "train", "'validation' or 'test'"),
    ("evals.separability.split", "validation", "on validation, ridges and rates are"),
    ("evals.separability.alpha", 0.5, r"\(0, 0.5\): at 0.5 nothing tells which image"),
    ("evals.separability.alphas", (0.3, 0.5), r"alphas=0.5: .* \(0, 0.5\): at 0.5"),
    ("evals.separability.map", "quadratic", "'linear' or 'mlp'"),
    ("evals.separability.targets", ("tokens",), "with 'latents', which the tables show"),
    ("evals.separability.targets", ("pixels",), "some of latents, tokens, each once"),
    ("evals.separability.mlp.epochs", 0, "mlp.epochs=0: .* at least 1"),
    ("evals.separability.alpha", 0.304, "alpha with alphas=.* first two digits"),
    ("evals.separability.alphas", ("a", 0.3), r"alphas='a': .* \(0, 0.5\]"),
    ("evals.quality.mask_ratios", (0.25, 0.254), "mask_ratios=.* first two digits"),
    ("evals.quality.mask_ratios", ("a",), "mask_ratios='a': .* a number"),
    ("optim.weight_decay", -0.1, "optim.weight_decay"),
    ("optim.clip_norm", 0.0, "optim.clip_norm=0.0: .* above 0 and finite, or unset"),
    ("optim.max_skipped", 0, "optim.max_skipped=0: .* at least 1"),
    ("compute.dtype", "float16", "compute.dtype='float16': .* 'float32' or 'bfloat16'"),
    ("compute.attention", "flash", "compute.attention='flash': .* 'xla' or 'cudnn'"),
    ("compute.attention", "cudnn", "compute.attention='cudnn': .* NVIDIA GPU in bfloat16"),
    ("compute.remat", "all", "compute.remat='all': .* 'none', 'products' or 'blocks'"),
    ("augment.pad", -1, "augment.pad=-1"),
    ("augment.pad_mode", "mirror", "augment.pad_mode='mirror': .* 'constant' or 'reflect'"),
    ("augment.crop_scale", (0.5,), r"augment.crop_scale=\(0.5,\): .* two numbers"),
    ("augment.crop_scale", (0.0, 1.0), "augment.crop_scale=.* 0 < low <= high <= 1"),
    ("augment.crop_scale", (0.8, 0.2), "augment.crop_scale=.* 0 < low <= high <= 1"),
    ("augment.crop_scale", (0.2, 1.5), "augment.crop_scale=.* 0 < low <= high <= 1"),
    ("augment.crop_scale", ("a", "b"), "augment.crop_scale=.* two numbers"),
    ("checkpoint.keep", 0, "checkpoint.keep=0"),
    ("log.every_steps", 0, "log.every_steps=0"),
    ("seed", -1, "seed=-1"),
    ("evals.separability.split", "tset", "evals.separability.split='tset': .* 'test'"),
    ("evals.reconstruction.alpha", 0.6, "evals.reconstruction.alpha=0.6"),
    ("evals.separability.alphas", (0.3, 0.301), "differ in their first two digits"),
    (
        "evals.separability.alphas",
        (0.3, 0.6),
        r"evals.separability.alphas=0.6: .* \(0, 0.5\]",
    ),
    ("evals.semantics.alpha", 0.0, "evals.semantics.alpha=0.0"),
    ("evals.semantics.seed", -1, "evals.semantics.seed=-1"),
    ("evals.quality.mask_ratios", (0.99,), "evals.quality.mask_ratios=0.99.* leaves 0 of"),
    ("evals.quality.mask_ratios", (0.0,), "mask_ratios=0.0: .* mask at least one"),
    ("evals.probes.neighbours", 0, "evals.probes.neighbours=0: .* at least 1"),
    ("evals.probes.temperature", 0.0, "evals.probes.temperature=0.0: .* above 0"),
    ("evals.probes.lars.blrs", (0.1, -1.0), "evals.probes.lars.blrs"),
    ("evals.probes.lars.warmup_epochs", 2, "warmup_epochs=2: .* less than the 2 epochs"),
    ("evals.recognition.classifier.width", 0, "classifier.width=0: .* at least 1"),
    ("evals.recognition.classifier.batch_size", 7, "classifier.batch_size=7: .* even"),
    ("evals.recognition.classifier.blr", 0.0, "classifier.blr=0.0: .* above 0"),
    ("evals.reconstruction.batch_size", 15, "evals.reconstruction.batch_size=15"),
    ("explorer.split", "train", "explorer.split='train': .* 'test'"),
    ("explorer.pairs", 0, "explorer.pairs=0: .* 1 to 32"),
    ("explorer.pairs", None, "explorer.pairs=None: .* 1 to 32"),
    (
        "evals.recognition.alpha",
        None,
        r"evals.recognition.alpha=None: must be in \(0, 0.5\]",
    ),
    ("explorer.pairs", 33, "explorer.pairs=33: .* 1 to 32: one batch"),
    ("explorer.batch_size", 24, "explorer.batch_size=24: .* divisible by 16"),
    ("explorer.seed", -1, "explorer.seed=-1"),
    ("explorer.alphas", (), r"explorer.alphas=\(\): .* one or more increasing numbers"),
    ("explorer.alphas", (0.3, 0.1), "explorer.alphas=.* increasing"),
    ("explorer.alphas", ("a", "b"), "explorer.alphas=.* numbers"),
    ("explorer.alphas", (0.0, 0.3), r"explorer.alphas=0.0: .* \(0, 0.5\]"),
    ("explorer.alphas", (0.3, 0.6), "explorer.alphas=0.6"),
    ("explorer.mask_ratios", (0.0, 0.5), "explorer.mask_ratios=0.0: .* mask at least one"),
    ("explorer.mask_ratios", (0.5, 0.99), "mask_ratios=0.99: .* leaves 0 of 16 patches"),
    ("explorer.mask_ratios", (0.5, 1.5), r"explorer.mask_ratios=1.5: .* in \[0, 1\)"),
]


@pytest.mark.parametrize("key,value,message", BAD_VALUES)
def test_bad_values_get_one_line_and_leave_nothing(
    key, value, message, imae_config, tmp_path, monkeypatch
):
    config = imae_config()
    put(config, key, value)
    assert_refused(config, message, tmp_path, monkeypatch)


def test_several_steps_a_dispatch_need_resident_images(mae_config, tmp_path):
    config = mae_config()
    config.train.steps_per_dispatch = 2
    config.data.feed = "streaming"
    with pytest.raises(UserError, match="steps_per_dispatch=2: must be 1 where images"):
        train(config, tmp_path)


def test_a_rate_of_classes_needs_classes(tmp_path):
    make_folder(tmp_path / "data", *[f"{i}.png" for i in range(80)])
    config = imae.get_config("folder,runlocal")
    config.data.dir = str(tmp_path / "data")
    config.mix.same_class_rate = 0.5
    config.loss.distill_weight = 0.0
    with pytest.raises(UserError, match="same_class_rate=0.5: the images have no classes"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    "count,accumulate,message",
    [
        (70, 1, "train.batch_size=64: .* at most 48: the train split holds 63 images"),
        (70, 2, "train.batch_size=64: .* at most 32: the train split holds 63 images"),
        (
            14,
            1,
            "train.batch_size=64: .* at least 16, and the train split holds 12 images: ",
        ),
    ],
)
def test_a_batch_is_no_larger_than_the_train_split(tmp_path, count, accumulate, message):
    make_folder(tmp_path / "data", *[f"{i}.png" for i in range(count)])
    config = mae.get_config("folder_small,runlocal")
    config.data.dir = str(tmp_path / "data")
    config.train.batch_size, config.train.accumulate = 64, accumulate
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_images_must_be_divisible_into_patches(tmp_path):
    make_folder(tmp_path / "data", *[f"{i}.png" for i in range(80)])
    config = mae.get_config("folder,runlocal")
    config.data.dir = str(tmp_path / "data")
    config.data.files.image_size = 60
    with pytest.raises(UserError, match="60x60 is not divisible by patch size 8"):
        train(config, tmp_path / "run")
    config.data.files.image_size = 4
    with pytest.raises(UserError, match="size 4x4 is not divisible by patch size 8"):
        train(config, tmp_path / "run")


def test_a_teacher_that_is_not_used_sees_nothing(imae_config, tmp_path):
    config = imae_config()
    config.loss.distill_weight = 0.0
    config.teacher.input = "mixture"
    with pytest.raises(UserError, match="'mixture': must be 'image' with loss.distill_w"):
        train(config, tmp_path)


def test_warm_start_without_a_teacher(imae_config, mae_config, tmp_path):
    config = imae_config()
    config.init = "teacher"
    config.teacher.init = ""
    config.loss.distill_weight = 0.0
    with pytest.raises(UserError, match="init='teacher' needs an i-MAE and teacher.init"):
        train(config, tmp_path)
    config = mae_config()
    config.init = "teacher"
    with pytest.raises(UserError, match="init='teacher' needs an i-MAE and teacher.init"):
        train(config, tmp_path)


def test_fixed_alpha_leaves_nothing_to_draw_per_batch(imae_config, tmp_path):
    config = imae_config()
    config.mix.alpha = 0.3
    config.mix.per_batch = True
    with pytest.raises(UserError, match="mix.per_batch=True"):
        train(config, tmp_path)


@pytest.mark.parametrize(
    ("weight", "key", "value", "message"),
    [
        (
            "contrast",
            "train.accumulate",
            2,
            "=2: must be 1 with loss.contrast_weight",
        ),
        ("uniformity", "train.accumulate", 2, "=2: must be 1 with loss.uniformity_weight"),
        ("contrast", "loss.branches", "subordinate", "='subordinate': must be 'both' with"),
        ("contrast", "mix.shared_mask", True, "=True: must be False .* its own mask"),
        ("contrast", "mix.clean_fraction", 0.25, "=0.25: must be 0 with .* only one role"),
    ],
)
def test_terms_between_images_need_whole_batches_and_two_roles(
    weight, key, value, message, imae_config, tmp_path, monkeypatch
):
    config = imae_config()
    put(config, f"loss.{weight}_weight", 0.1)
    put(config, key, value)
    assert_refused(config, f"invalid {key}{message}", tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "train.batch_size",
            34,
            "=34: must be a multiple of 3: images are fed in groups of 3",
        ),
        ("train.batch_size", 27, "=27: must be divisible by 24: whole groups of 3 on each"),
        ("train.accumulate", 3, "divisible by 72: .* in each of 3 parts"),
        ("mix.same_class_rate", 0.5, "=0.5: must be unset with mix.sources=3"),
        ("mix.clean_fraction", 0.99, "a batch's 16 groups of 3 that is one at least"),
        ("loss.branches", "subordinate", "must be 'both', which is all 3 of mix.sources=3"),
        ("loss.contrast_weight", 0.1, "=0.1: must be 0 with mix.sources=3"),
        ("evals.during_training.score_images", 2, "score_images=2: must be at least 3, as"),
        ("explorer.pairs", 22, "explorer.pairs=22: must be 1 to 21: one batch holds them"),
    ],
)
def test_three_images_refuse_what_is_of_pairs(
    key, value, message, imae_config, tmp_path, monkeypatch
):
    config = imae_config()
    put(config, "mix.sources", 3)
    put(config, "train.batch_size", 48)
    put(config, key, value)
    assert_refused(config, message, tmp_path, monkeypatch)


@pytest.mark.slow
def test_an_imae_run_is_no_teacher(imae_config, tmp_path):
    train(imae_config(), tmp_path / "imae", stop_at=1)
    config = imae_config()
    config.teacher.init = str(tmp_path / "imae")
    with pytest.raises(UserError, match="is an i-MAE run; a teacher is a MAE run"):
        train(config, tmp_path / "other")


def test_evaluators_get_their_own_options_and_models(imae_config, mae_config, tmp_path):
    config = imae_config()
    config.evals.quality.alpha = 0.3
    with pytest.raises(UserError, match="evals.quality='alpha': .* one of split, alphas"):
        train(config, tmp_path)
    config = imae_config()
    del config.evals.semantics.alphas
    with pytest.raises(UserError, match="evals.semantics.alphas is missing"):
        train(config, tmp_path)
    config = imae_config()
    del config.evals.reconstruction.alpha
    with pytest.raises(UserError, match="evals.reconstruction.alpha=None: .* an i-MAE"):
        train(config, tmp_path)
    config = mae_config()
    config.evals.quality = imae_config().evals.quality
    with pytest.raises(UserError, match="evals.quality is about mixtures: only an i-MAE"):
        train(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_evaluator(mae_config, tmp_path):
    config = mae_config()
    config.evals.separabilty = config.evals.reconstruction
    with pytest.raises(UserError, match="evals='separabilty': .* semantics, separability"):
        train(config, tmp_path)


def test_workdir_that_cannot_be_written(mae_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="workdir .*file/run.* cannot be written"):
        train(mae_config(), tmp_path / "file" / "run")


BAD_VALUES_OF_CLASSIFIERS = [
    (
        "linear",
        "model.mode",
        "probe",
        "model.mode='probe': .* 'linear', 'finetune' or 'scratch'",
    ),
    ("linear", "model.mode", "finetune", "mode='finetune' needs mixup; .*DATASET,finetune"),
    ("finetune", "model.mode", "linear", "mode='linear' has no use for mixup"),
    ("linear", "init", "", "init is empty, but model.mode='linear' needs an encoder"),
    ("finetune", "init", "", "init is empty, but model.mode='finetune' needs"),
    ("scratch", "init", "there", "init='there': must be empty"),
    ("linear", "init", "nowhere", "init='nowhere': there is no such folder"),
    ("linear", "init", "teacher", "init='teacher' needs an i-MAE"),
    ("linear", "model.pools", (), r"model.pools=\(\): .* one of class_token and mean"),
    ("linear", "model.pools", ("max",), r"model.pools=\('max',\)"),
    ("linear", "model.pools", ("mean", "mean"), "model.pools=.* class_token, mean"),
    ("finetune", "model.pools", ("mean", "class_token"), "model.pools=.* a single one"),
    ("finetune", "model.drop_path", 1.0, r"model.drop_path=1.0: .* in \[0, 1\)"),
    ("finetune", "model.variant", "mu/3", "8x8 is not divisible by patch size 3"),
    ("finetune", "optim.layer_decay", 0.0, r"optim.layer_decay=0.0: .* in \(0, 1\]"),
    ("finetune", "optim.layer_decay", 1.1, "optim.layer_decay=1.1"),
    ("finetune", "optim.ema_decay", 1.0, r"optim.ema_decay=1.0: .* in \(0, 1\), or unset"),
    ("finetune", "optim.min_lr", 9.0, "optim.min_lr=9.0: .* less than the peak rate"),
    ("linear", "optim.min_lr", -1.0, "optim.min_lr=-1.0: .* at least 0"),
    ("finetune", "optim.betas", (0.9,), "two numbers"),
    ("finetune", "mixup.mixup_alpha", -1.0, "mixup.mixup_alpha=-1.0: .* at least 0"),
    ("finetune", "mixup.cutmix_alpha", -1.0, "mixup.cutmix_alpha=-1.0"),
    ("finetune", "mixup.switch_probability", 2.0, "mixup.switch_probability=2.0"),
    ("finetune", "mixup.smoothing", -0.1, r"mixup.smoothing=-0.1: .* in \[0, 1\]"),
    (
        "finetune",
        "augment.randaugment.num_ops",
        -1,
        "randaugment.num_ops=-1: .* at least 0",
    ),
    ("finetune", "augment.randaugment.magnitude", 11.0, r"magnitude=11.0: .* \[0, 10\]"),
    ("finetune", "augment.randaugment.magnitude_std", -1.0, "magnitude_std=-1.0"),
    ("finetune", "augment.randaugment.probability", 1.5, "randaugment.probability=1.5"),
    ("finetune", "augment.erasing.probability", 1.5, "erasing.probability=1.5"),
    (
        "finetune",
        "augment.erasing.area",
        (0.0, 0.5),
        "erasing.area=.* 0 < low <= high <= 1",
    ),
    ("finetune", "augment.erasing.ratio", (2.0, 1.0), "erasing.ratio=.* 0 < low <= high"),
    ("finetune", "augment.erasing.ratio", ("a", 1.0), "erasing.ratio=.* two numbers"),
    ("linear", "evals.classification.split", "train", "'validation' or 'test'"),
    ("linear", "evals.classification.batch_size", 15, "evals.classification.batch_size=15"),
    ("linear", "train.batch_size", 24, "divisible by 16: whole pairs on each"),
    ("linear", "train.accumulate", 2, "train.accumulate=2: .* BatchNorm"),
]


@pytest.mark.parametrize("mode,key,value,message", BAD_VALUES_OF_CLASSIFIERS)
def test_bad_values_of_classifiers(
    mode, key, value, message, transfer_config, tmp_path, monkeypatch
):
    config = transfer_config(mode)
    put(config, key, value)
    assert_refused(config, message, tmp_path, monkeypatch)


def test_a_loop_of_blocks_drops_none(transfer_config, tmp_path):
    config = transfer_config("finetune")
    config.compute.scan, config.model.drop_path = True, 0.1
    with pytest.raises(UserError, match="compute.scan=True: .* False with model.drop_path"):
        train(config, tmp_path)


def test_evaluators_of_classifiers_and_of_others(transfer_config, mae_config, tmp_path):
    config = transfer_config("linear")
    config.evals.reconstruction = mae_config().evals.reconstruction
    message = "evals.reconstruction is not for a classifier, which only has classification"
    with pytest.raises(UserError, match=message):
        train(config, tmp_path)
    config = mae_config()
    config.evals.classification = transfer_config("linear").evals.classification
    with pytest.raises(UserError, match="evals.classification is about named classes"):
        train(config, tmp_path)


@pytest.mark.parametrize("folders,count", [(("",), "no"), (("ant/",), "1")])
def test_a_classifier_needs_two_classes(folders, count, tmp_path):
    make_folder(
        tmp_path / "data", *[f"{folder}{i}.png" for folder in folders for i in range(80)]
    )
    config = transfer.get_config("folder,scratch,runlocal")
    config.data.dir = str(tmp_path / "data")
    with pytest.raises(UserError, match=f"of {count} class; a classifier needs labels"):
        train(config, tmp_path / "run")


def test_images_of_train_are_not_scored_in_pretraining_either(tmp_path):
    names = [f"{s}/{c}/{i}.png" for s in ("train", "val") for c in "ab" for i in range(15)]
    make_folder(tmp_path / "data", *names)
    config = imae.get_config("folder,runlocal")
    config.data.dir = str(tmp_path / "data")
    config.loss.distill_weight = 0.0
    config.train.batch_size = 16
    config.evals.during_training.every_epochs = 1.0
    # A part of three images would be one to choose by, and two to score.
    with pytest.raises(UserError, match="split='validation': .* at least 4 images"):
        train(config, tmp_path / "run")
    config.evals.during_training.every_epochs = 0.0
    config.evals.reconstruction.split = "validation"
    with pytest.raises(UserError, match="reconstruction.split='validation': .* from train"):
        train(config, tmp_path / "run")


def test_images_of_train_are_not_scored(tmp_path):
    """A folder with two splits takes its validation part from train."""
    names = [f"{s}/{c}/{i}.png" for s in ("train", "val") for c in "ab" for i in range(20)]
    make_folder(tmp_path / "data", *names)
    config = transfer.get_config("folder,scratch,runlocal")
    config.data.dir = str(tmp_path / "data")
    config.evals.classification.split = "validation"
    with pytest.raises(UserError, match="classification.split='validation': .* from train"):
        train(config, tmp_path / "run")


def flattened(section, prefix=""):
    """Every key, dotted."""
    for key, value in section.items():
        if hasattr(value, "keys"):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key


NO_VALUES = [float("nan"), float("inf"), -float("inf"), object(), {}]


def test_every_key_of_every_preset_has_a_rule():
    made = [module.get_config(name) for module in (mae, imae) for name in PRESETS]
    made += [
        transfer.get_config(f"{name},{mode}") for name in PRESETS for mode in transfer.MODES
    ]
    keys = {key for config in made for key in flattened(config)}
    # Evaluators and the report's panel check their own.
    own = {key for key in keys if not key.startswith(("evals.", "explorer."))}
    assert own == RULES.keys()


@pytest.mark.parametrize("value", NO_VALUES)
@pytest.mark.parametrize("key", RULES)
def test_every_rule_refuses_what_is_no_value(key, value):
    assert not RULES[key].allows(value)


def test_a_number_is_finite_as_a_float():
    assert not is_number(10**400) and is_number(1e300)
    assert not RULES["optim.blr"].allows(10**400)


EVALUATOR_RULES = {
    f"evals.{name}.{key}": rule
    for name, evaluator in all_evaluators().items()
    for key, rule in {**SHARED_RULES, **evaluator.rules}.items()
}


def test_every_option_of_every_evaluator_has_a_rule():
    made = [module.get_config(name) for module in (mae, imae) for name in PRESETS]
    made.append(transfer.get_config("digits,linear"))
    keys = {key for config in made for key in flattened(config) if key[:6] == "evals."}
    # Sweeps are checked number by number.
    keys = {key for key in keys if not key.endswith((".alphas", ".mask_ratios"))}
    assert len(keys) > 30 and keys <= EVALUATOR_RULES.keys()


@pytest.mark.parametrize("value", NO_VALUES)
@pytest.mark.parametrize("key", EVALUATOR_RULES)
def test_every_rule_of_evaluators_refuses_what_is_no_value(key, value):
    assert not EVALUATOR_RULES[key].allows(value)
