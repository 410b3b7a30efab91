"""Flags of main.py's commands."""

from imae_jax.commands.command_line import CONFIG, OVERRIDE, Flag
from imae_jax.errors import UserError, require
from imae_jax.storage.local_paths import local_path


def check_new_file(value: str, key: str) -> None:
    """Raises UserError unless the path is a file in an existing folder."""
    path = local_path(value, key).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{key}={value}: give a file in a folder that exists")


def check_positive(value: int, key: str) -> None:
    """Raises UserError for a number below 1."""
    require(value >= 1, key, value, "at least 1")


def parse_steps(value: str, key: str) -> tuple[int, int]:
    """Returns the first and the last step of FIRST:LAST; raises UserError for others."""
    first, colon, last = value.partition(":")
    is_pair = bool(colon) and first.isdecimal() and last.isdecimal()
    allowed = "FIRST:LAST, two steps, from 1"
    require(is_pair and 1 <= int(first) <= int(last), key, value, allowed)
    return int(first), int(last)


PROFILE = Flag(
    "profile",
    "FIRST:LAST",
    "Steps to trace into the workdir's profile/, for XProf and Perfetto.",
    shown="none",
    check=parse_steps,
)
WORKDIR = Flag("workdir", "DIR", "Folder of the run.")
FILE = Flag(
    CONFIG,
    "FILE:ARG",
    "Config file, such as configs/imae.py, and what its get_config is given: a preset, and "
    "its options. With the option runlocal, a run takes seconds.",
)
VALUE = Flag(
    OVERRIDE,
    "VALUE",
    "Overrides a value of the config, such as --config.train.batch_size=64; the command "
    "`config` lists all keys.",
    shown="what the config has",
)
PROCESSES = (
    Flag(
        "coordinator",
        "HOST:PORT",
        "Address of the first of several processes.",
        shown="what a TPU pod, GKE, Slurm or Open MPI says",
    ),
    Flag("num_processes", "N", "Number of processes.", int, shown="likewise"),
    Flag("process_id", "N", "Which of them this one is, from 0.", int, shown="likewise"),
    Flag(
        "wait_seconds",
        "N",
        "Time to wait for the other processes, and for a sign of life from them.",
        int,
        default=60,
        check=check_positive,
    ),
)
COMPILE = (
    Flag(
        "topology",
        "SLICE",
        "Slice of TPUs to compile for; or cuda, the GPUs of this machine.",
    ),
    Flag(
        "json",
        "PATH",
        "File to write everything to that was found.",
        shown="no file",
        check=check_new_file,
    ),
)
EXPORT = (
    Flag("out", "PATH", "File, or for hf and stablehlo folder, that is written."),
    Flag(
        "format",
        "FORMAT",
        "Export format: safetensors, timm, hf, imae_torch or stablehlo.",
        default="safetensors",
    ),
    Flag(
        "dtype",
        "TYPE",
        "Type of the values: float32 or, in safetensors, bfloat16.",
        default="float32",
    ),
    Flag(
        "step",
        "STEP",
        "Checkpoint that is exported: its step, or best for the lowest training loss.",
        shown="the newest",
    ),
)
IMPORT = (
    Flag("checkpoint", "PATH", "File, or folder of Hugging Face, that is read."),
    Flag(
        "image_size",
        "SIZE",
        "Size of images in pixels: HEIGHT or HEIGHTxWIDTH.",
        shown="that of the file",
    ),
    Flag(
        "num_heads",
        "N",
        "Number of attention heads of the encoder.",
        int,
        shown="what the file says, or is usual for its width",
    ),
    Flag(
        "decoder_num_heads",
        "N",
        "Number of attention heads of the decoder.",
        int,
        shown="what the file says, or is usual for its width",
    ),
    Flag(
        "norm_pix",
        "",
        "Whether the decoder predicts patches that are normalized one by one.",
        bool,
        shown="what the file says, or the decoder shows",
    ),
)
SEPARABILITY = (
    Flag(
        "encoder",
        "ENCODER",
        "Encoder to measure, may be repeated: run:WORKDIR, file:WEIGHTS.safetensors, "
        "timm:NAME, hf:FOLDER_OR_ID, torchvision:NAME, onnx:FILE or "
        "python:MODULE:FUNCTION; options follow, as in timm:NAME,checkpoint=FILE, and "
        "a name may stand before, as in mine=run:WORKDIR.",
        list,
        is_path=False,
    ),
    Flag("data", "DATA", "Preset of a data set, such as cifar10, or folder of images."),
    Flag(
        "data_dir",
        "DIR",
        "Folder that holds the data set of a preset, or in which it is prepared.",
        shown="what the preset has",
    ),
    Flag(
        "alphas",
        "NUMBERS",
        "Weights of the subordinate image, in (0, 0.5), separated by commas.",
        default="0.1,0.2,0.3,0.4",
    ),
    Flag(
        "target",
        "TARGET",
        "Features to predict: own, of each encoder; pixels; or an encoder.",
        default="own",
        is_path=False,
    ),
    Flag(
        "features",
        "FEATURES",
        "pooled, the mean over patches, or tokens, centred by position.",
        default="pooled",
    ),
    Flag(
        "num_images",
        "N",
        "Most images to fit on, and most to test on.",
        int,
        default=5000,
        check=check_positive,
    ),
    Flag(
        "batch_size",
        "N",
        "Images per call of an encoder.",
        int,
        default=64,
        check=check_positive,
    ),
    Flag("seed", "N", "Random seed of splits, pairs and bootstrap.", int, 0, "0"),
    Flag(
        "out",
        "DIR",
        "Folder of the table, the chart and all numbers.",
        shown="none, they are only printed",
    ),
)
