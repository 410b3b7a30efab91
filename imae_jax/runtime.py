"""Process settings: malloc, log output, compilation cache, TPU compiler."""

import ctypes
import importlib
import io
import logging
import os
import platform
import sys
import threading
from pathlib import Path

import absl.logging
from tqdm import tqdm

from imae_jax.errors import UserError, one_line

# Packages whose versions are stored with a run, and written into the log of a defect.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Without a TPU, and without these, its compiler queries the network, prints complaints, and
# locks out other processes.
ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

# <malloc.h> and <sys/mman.h>
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX, MADV_HUGEPAGE = -1, -4, -8, 14


def tune_malloc() -> bool:
    """Tunes glibc malloc to keep freed memory between steps, in huge pages.

    No effect on other C libraries. A training step on a CPU allocates gigabytes. By default
    glibc returns them after each step and the kernel clears them for the next, page by
    page, which can cost a third of the time. The price is up to twice the memory, because
    of fragmentation. If MALLOC_ARENA_MAX or GLIBC_TUNABLES is set, nothing is changed.

    Returns:
      True if the settings were changed.
    """
    if platform.libc_ver()[0] != "glibc" or {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"} & set(
        os.environ
    ):
        return False
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1)):
        libc.mallopt(option, value)
    # Addresses that the heap will grow into, none touched yet. (glibc itself asks for huge
    # pages only if its environment says so before the process starts.)
    page = os.sysconf("SC_PAGE_SIZE")
    size = os.sysconf("SC_PHYS_PAGES") * page // 2
    start = libc.malloc(size)
    if start:
        libc.madvise(-(-start // page) * page, size - page, MADV_HUGEPAGE)
        libc.free(start)
    return True


class _Terminal(logging.Handler):
    """Prints plain lines: warnings and errors to standard error, others to stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        tqdm.write(self.format(record), file=stream)  # above a progress bar
        stream.flush()


def show_log(level: int = logging.INFO) -> None:
    """Shows the package's log on the terminal, as `main.py` does.

    Args:
      level: lowest level of `logging` that is shown.
    """
    package = logging.getLogger("imae_jax")
    package.setLevel(level)
    package.propagate = False  # absl's handler of the root would show all a second time
    package.handlers = [_Terminal()]


def quiet_threads() -> None:
    """Keeps libraries from printing errors of their threads, as `main.py` does.

    The main thread raises what matters of them, such as that a disk is full, in one line.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    threading.excepthook = sys.unraisablehook = _log_thread


def _log_thread(error: "threading.ExceptHookArgs | sys.UnraisableHookArgs") -> None:
    logging.getLogger("imae_jax").debug("in the background: %r", error.exc_value)


def print_any_text() -> None:
    """Has characters that the console's encoding lacks printed as escapes.

    Text for a stream that the caller closed is dropped.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_environment() -> None:
    """Loads JAX; raises UserError if a variable of the environment has a wrong value."""
    try:
        importlib.import_module("jax")
    except ValueError as error:  # of a setting of JAX
        variables = ", ".join(sorted(x for x in os.environ if x.startswith("JAX_")))
        raise UserError(f"JAX does not start: {error}; set here: {variables}") from None


def check_devices() -> None:
    """Starts JAX's devices; raises UserError if those that were asked for are not there."""
    import jax  # late, so that the rest is there without it

    try:
        jax.devices()
    # JAX asserts that there is a device of a platform that it knows.
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        said = one_line(error) or "there is none"
        raise UserError(
            f"no device of JAX can be used: {said}; JAX_PLATFORMS={asked!r}: unset it to "
            "take what this machine has"
        ) from None


def enable_compilation_cache() -> None:
    """Enables JAX's compilation cache, unless JAX_COMPILATION_CACHE_DIR has done so.

    Without a home folder nothing is kept.
    """
    import jax  # late, so that the rest is there without it

    # JAX gives this object its attributes at run time.
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        try:
            compiled = folder() / "compiled"
        except UserError:
            return
        jax.config.update("jax_compilation_cache_dir", str(compiled))
        jax.config.update("jax_compilation_cache_max_size", 4 * 10**9)


# Device files of TPUs (v2 to v4; v5 and later).
TPU_DEVICES = ("accel[0-9]*", "vfio/[0-9]*")
# Variables that ask for a TPU. (JAX itself sets TPU_LIBRARY_PATH and TPU_SKIP_MDS_QUERY.)
TPU_VARIABLES = (
    "JAX_PLATFORMS",
    "JAX_FORCE_TPU_INIT",
    "TPU_NAME",
    "TPU_ACCELERATOR_TYPE",
    "TPU_WORKER_HOSTNAMES",
)


def quiet_tpu_compiler(devices: Path = Path("/dev")) -> bool:
    """Keeps the TPU compiler from searching for devices on a machine without a TPU.

    JAX queries it on every command, and it prints complaints to standard error. Nothing is
    changed if there is a TPU, or the environment asks for one.

    Returns:
      True if the settings were changed.
    """
    is_there = any(next(devices.glob(name), None) for name in TPU_DEVICES)
    if is_there or not os.environ.keys().isdisjoint(TPU_VARIABLES):
        return False
    stand_alone()
    return True


def folder() -> Path:
    """Returns the path of the cache folder, which may not exist yet.

    Raises:
      UserError: if the user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "imae_jax"
    except RuntimeError:
        raise UserError(
            f"{base} is a folder that nobody knows, as this user has no home: set HOME or "
            "XDG_CACHE_HOME to a folder that can be written"
        ) from None


def stand_alone() -> None:
    """Sets the variables of `ALONE` that are unset; call before JAX starts its backends."""
    for key, value in ALONE.items():
        os.environ.setdefault(key, value)
