"""The threads of a product: torch's own OpenMP threads, for the calling thread alone.

`torch.set_num_threads` also sets the number for threads that start later, those of the calling program included;
OpenMP's own setting belongs to one thread.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch


@cache
def _library() -> ctypes.CDLL | None:
    """GNU OpenMP in the copy that torch runs on; None where torch has another."""
    for path in sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*")):
        library = ctypes.CDLL(str(path))
        entry = library.GOMP_parallel
        entry.argtypes, entry.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return library
    return None


def run(kernel, task) -> None:
    """Call kernel(task) on all threads of the calling thread's products at once; on one where there is no GNU
    OpenMP."""
    threads = torch.get_num_threads()
    if threads > 1 and (library := _library()):
        library.GOMP_parallel(kernel, task, threads, 0)
    else:
        kernel(task)


def limit_threads(count: int) -> None:
    """Use so many threads for the products that the calling thread starts. Without GNU OpenMP this reaches threads that
    start later, too."""
    torch.get_num_threads()  # torch sets a thread up at the first call
    library = _library()
    if not library:
        torch.set_num_threads(count)
        return
    library.omp_set_num_threads(count)
    if torch.backends.mkl.is_available():  # MKL keeps its own number once torch.set_num_threads was called
        mkl = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"))
        mkl.MKL_Set_Num_Threads_Local(count)
