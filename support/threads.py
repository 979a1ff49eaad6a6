"""One thread for torch: the same weights on any number of cores."""

import contextlib

import torch


@contextlib.contextmanager
def one_thread():
    """Limit torch to one thread, then restore the previous number; `@one_thread()` decorates.

    With more threads sums are added in another order, and the weights would depend on their number.
    They would save little on so small a network, and beside another busy process cost a lot.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
