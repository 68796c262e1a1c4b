"""What numeric libraries are told before they are loaded: how threads wait, and that memory is kept. Loads none."""

from __future__ import annotations

import ctypes
import os
import sys

NUMERICS = {
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "1000",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Waiting threads spin for some 50 microseconds, which is as long as most gaps between two parallel loops, and then
sleep: beside other work, spinning without a bound took eight times the CPU time. Mapped memory is kept, as page faults
are dear."""

KEPT = ((-3, 2**30), (-1, 2**31 - 1), (-2, 2**28))
"""the same of memory for mallopt: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD"""


def prepare() -> None:
    """Tells this process what a device process is told. Too late once torch is loaded.

    What the environment says already, stands. The C library reads its part at its start, and is told by a call.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in NUMERICS if name.startswith("MALLOC")):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only glibc has it
        if mallopt is not None:
            for parameter, size in KEPT:
                mallopt(parameter, size)
    for name, value in NUMERICS.items():
        os.environ.setdefault(name, value)
