"""SIGTERM and preemption notices, synchronized over all processes."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

# Counts the checks of this process: all processes end at the same one.
_looks = itertools.count(1)


def preemption_requested() -> bool:
    """True if any of several processes has received SIGTERM; False in a single process.

    All processes must call it equally often; the same call returns True in each, once.
    """
    if not jax.distributed.is_initialized():
        return False
    return multihost_utils.reached_preemption_sync_point(next(_looks))


class Termination:
    """Remembers whether any process of the run has received SIGTERM.

    Attributes:
      is_noticed: True once `look` has returned True.
    """

    def __init__(self, ask: Callable[[], bool]):
        """Takes `ask`, which returns True if SIGTERM has been received."""
        self._ask = ask
        self.is_noticed = False

    def look(self) -> bool:
        """True if the run should end, in all processes at the same call."""
        self.is_noticed = self.is_noticed or self._ask()
        return self.is_noticed


@contextlib.contextmanager
def catch_sigterm() -> Iterator[Termination]:
    """Context in which SIGTERM does not end the process but is recorded."""
    if jax.distributed.is_initialized():  # JAX handles the signal
        yield Termination(preemption_requested)
        return
    if threading.current_thread() is not threading.main_thread():
        yield Termination(lambda: False)  # only the main thread can handle signals
        return
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield Termination(came.is_set)
    finally:
        signal.signal(signal.SIGTERM, before)
