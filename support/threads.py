"""The number of threads that torch uses."""

import contextlib
import os

import torch


@contextlib.contextmanager
def one_thread():
    """Limit torch to one thread, then restore the previous number; also a decorator.

    On so small a network a second thread gains little. It costs a lot beside another busy process,
    because every operation waits for its slowest thread. And the order of summation, and so the
    weights, would depend on the number of threads. If `OMP_NUM_THREADS` is set, nothing changes.
    """
    threads = torch.get_num_threads()
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
