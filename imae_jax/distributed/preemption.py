"""SIGTERM and preemption notices, agreed on by all processes."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

# Of looks, in the life of a process: all agree to end at the same one.
_looks = itertools.count(1)


def are_told_to_end() -> bool:
    """Whether SIGTERM has come to any of several processes; False where there is one.

    All have to ask equally often, and are told so once, by the same call.
    """
    if not jax.distributed.is_initialized():
        return False
    return multihost_utils.reached_preemption_sync_point(next(_looks))


class Termination:
    """Whether SIGTERM has come, to this process or to any that works with it."""

    def __init__(self, ask: Callable[[], bool]):
        """`ask` tells whether it has; all processes ask equally often."""
        self._ask = ask
        self.is_noticed = False

    def look(self) -> bool:
        """Whether it is time to end; all processes are told at the same call."""
        self.is_noticed = self.is_noticed or self._ask()
        return self.is_noticed


@contextlib.contextmanager
def noticing_termination() -> Iterator[Termination]:
    """Inside, SIGTERM ends nothing, but is noticed."""
    if jax.distributed.is_initialized():  # JAX listens to the signal
        yield Termination(are_told_to_end)
        return
    if threading.current_thread() is not threading.main_thread():
        yield Termination(lambda: False)  # only the main thread is told of signals
        return
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield Termination(came.is_set)
    finally:
        signal.signal(signal.SIGTERM, before)
