"""Multi-process setup: joining, barriers, preemption and coordinated shutdown.

All processes run the same commands and share a file system; only the first writes files
and logs.
"""

import contextlib
import ctypes
import hashlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from imae_jax.errors import Terminated, UserError, one_line

logger = logging.getLogger(__name__)

LOST = (
    "the processes of this run have lost each other: see what the others say, and start "
    "all of them again with the same commands, to resume from the last checkpoint"
)


def join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    wait_seconds: int,
) -> None:
    """Joins the processes of a run, if there are several. Call before JAX is used.

    Args:
      coordinator: HOST:PORT of the first process; None: detected by JAX (TPU pods, GKE,
        Slurm, Open MPI).
      num_processes: number of processes; 1: single process, whatever launched it.
      process_id: index of this process, from 0.
      wait_seconds: timeout in seconds for the others to join, and for heartbeats later.
    Raises:
      UserError: if the arguments are inconsistent, or the other processes do not join.
    """
    if num_processes == 1:
        return
    if coordinator is not None:
        _check(coordinator, num_processes, process_id)
        if process_id:
            _wait_for(coordinator, wait_seconds)
    elif (num_processes, process_id) != (None, None):
        raise UserError("--num_processes and --process_id need --coordinator=HOST:PORT")
    count = f"{num_processes} " if num_processes else ""
    _at_abort(f"not all {count}processes were there after --wait_seconds={wait_seconds}")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=wait_seconds,
            heartbeat_timeout_seconds=wait_seconds,
        )
    except (ValueError, OSError, RuntimeError) as error:
        if coordinator is None and not isinstance(error, RuntimeError):
            _at_abort(None)
            return  # a single process
        reason = one_line(error)
        where = f"--coordinator={coordinator}" if coordinator else "what launched this"
        raise UserError(f"{where} cannot be used: {reason}") from None
    _at_abort(LOST)
    # Used on CPUs only.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")


def _check(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"invalid --coordinator={coordinator!r}: give HOST:PORT")
    if num_processes is None or num_processes < 1:
        raise UserError(
            f"--num_processes={num_processes}: with --coordinator give how many there are"
        )
    if process_id is None or not 0 <= process_id < num_processes:
        raise UserError(
            f"invalid --process_id={process_id}: of {num_processes} processes it "
            f"must be 0 to {num_processes - 1}"
        )


def _wait_for(coordinator: str, wait_seconds: int) -> None:
    """Waits until the first process listens; JAX itself would abort without our message."""
    host, _, port = coordinator.rpartition(":")
    last = time.monotonic() + wait_seconds
    said = False
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except UnicodeError:
            raise UserError(
                f"invalid --coordinator={coordinator!r}: {host!r} is no host"
            ) from None
        except OSError as error:
            if time.monotonic() > last:
                raise UserError(
                    f"--coordinator={coordinator}: nobody answers there after "
                    f"{wait_seconds} s (--wait_seconds): {error}. It is where the process "
                    "with --process_id=0 runs"
                ) from None
        if not said:
            logger.warning(f"waiting for --coordinator={coordinator}")
            said = True
        time.sleep(0.5)


def is_first() -> bool:
    """True in the process that writes files and logs."""
    # In this order, a single process does not initialize its devices.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def wait(what: str) -> None:
    """Barrier: waits until all processes have reached the same `what`."""
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices(what)


def broadcast_from_first(value: bool) -> bool:
    """Broadcasts the value of the first process to all."""
    if not jax.distributed.is_initialized():
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def require_same(what: str, value: str) -> None:
    """Raises UserError in all processes unless each has the same text.

    Args:
      what: what the text describes, for the message.
      value: the process's own text.
    """
    if not jax.distributed.is_initialized():
        return
    own = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    found = multihost_utils.process_allgather(own)
    others = [n for n, digest in enumerate(found) if (digest != found[0]).any()]
    if others:
        named = ", ".join(map(str, others))
        raise UserError(f"{what} of process {named} is not that of process 0")


@contextlib.contextmanager
def abort_all_on_error(explain: Callable[[BaseException], str]) -> Iterator[None]:
    """Context that logs an error and exits at once if there are several processes.

    Otherwise a failed process would wait at exit for the others, which wait for it.

    Args:
      explain: makes one line of an error.
    """
    try:
        yield
    except Terminated:
        raise  # in all processes
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        if isinstance(error, KeyboardInterrupt):
            logger.error("interrupted")
            os._exit(128 + signal.SIGINT)
        if is_connection_lost(error):
            logger.error(f"error: {LOST} ({one_line(error)[:200]})")
        else:
            logger.error(f"error: {explain(error)}")
        sys.stderr.flush()
        os._exit(1)


def is_connection_lost(error: BaseException | None) -> bool:
    """True if the error means that the connection to the other processes is lost."""
    if error is None or not jax.distributed.is_initialized():
        return False
    text = str(error)
    is_of_jax = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in text
    is_of_orbax = isinstance(error, TimeoutError) and "barrier" in text
    return is_of_orbax or (is_of_jax and "RESOURCE_EXHAUSTED" not in text)


def _at_abort(text: str | None) -> None:
    """Prints `text` when JAX aborts because a process is missing; None: stops doing so.

    JAX aborts in native code, where there is no exception to catch. (JAX 0.7 exits without
    aborting, so the text is not printed.)
    """
    if text is None:
        ctypes.CDLL(None).signal(int(signal.SIGABRT), None)
        return

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(_: object) -> None:
        os.write(2, f"error: {text}\n".encode())
        os._exit(1)

    # Keeps the callback alive; mypy knows no attributes of functions.
    _at_abort.handler = handler  # type: ignore[attr-defined]
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)
