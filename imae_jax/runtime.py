"""What has to be set before JAX starts its backend: memory and compiled programs kept."""

import ctypes
import logging
import os
import platform
import sys
from pathlib import Path

import jax
from tqdm import tqdm

# Where there is no TPU, its compiler asks the network for one, complains that it got no
# answer, and lets no other process use it, unless it is told not to.
ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

# <malloc.h> and <sys/mman.h>
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX, MADV_HUGEPAGE = -1, -4, -8, 14


def keep_memory() -> bool:
    """Has freed memory kept for the next step, in huge pages; a no-op but on glibc.

    A training step on a CPU needs gigabytes for its length. Left to itself, glibc gives
    them back after each and the kernel clears them again for the next, page by page,
    which can cost a third of the time. The price is up to twice the memory: what is freed
    in pieces stays. To have it otherwise, set MALLOC_ARENA_MAX or GLIBC_TUNABLES; then
    nothing is changed.

    Returns:
      Whether it was done.
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
    # Addresses that the heap will grow over, none of them touched yet. (glibc asks for
    # huge pages only if told to by its environment, before the process starts.)
    page = os.sysconf("SC_PAGE_SIZE")
    size = os.sysconf("SC_PHYS_PAGES") * page // 2
    start = libc.malloc(size)
    if start:
        libc.madvise(-(-start // page) * page, size - page, MADV_HUGEPAGE)
        libc.free(start)
    return True


class _Terminal(logging.Handler):
    """Plain lines: warnings and errors to standard error, others to standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        tqdm.write(self.format(record), file=stream)  # above a progress bar
        stream.flush()


def show_log(level: int = logging.INFO) -> None:
    """Shows the package's log on the terminal, as `main.py` does.

    Args:
      level: of `logging`; what lies below it is not shown.
    """
    package = logging.getLogger("imae_jax")
    package.setLevel(level)
    package.handlers = [_Terminal()]


def keep_compiled() -> None:
    """Has JAX keep compiled programs on disk; JAX_COMPILATION_CACHE_DIR says where else."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder() / "compiled"))
        jax.config.update("jax_compilation_cache_max_size", 4 * 10**9)


# Where the kernel shows a TPU (v2 to v4; v5 and later), and what says that one is meant.
TPU_DEVICES = ("accel[0-9]*", "vfio/[0-9]*")
# (JAX itself sets TPU_LIBRARY_PATH and TPU_SKIP_MDS_QUERY.)
TPU_VARIABLES = ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT", "TPU_NAME")
TPU_VARIABLES += ("TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES")


def quiet_tpu_compiler(devices: Path = Path("/dev")) -> bool:
    """Has the TPUs' compiler, where it is installed and there is no TPU, look for none.

    JAX asks it for devices whatever the command, and it answers with complaints on standard
    error. Nothing is changed where there is a TPU, or one is meant.

    Returns:
      Whether it was done.
    """
    is_there = any(next(devices.glob(name), None) for name in TPU_DEVICES)
    if is_there or not os.environ.keys().isdisjoint(TPU_VARIABLES):
        return False
    stand_alone()
    return True


def folder() -> Path:
    """The cache folder; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "imae_jax"


def stand_alone() -> None:
    """Sets what of `ALONE` is not set; before JAX starts its backends."""
    for key, value in ALONE.items():
        os.environ.setdefault(key, value)
