"""The size that the page begins with: the largest that this machine holds at full quality. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from server.scheduling.admission import Admission
from server.scheduling.costs import Workload

SIZES = ((832, 480), (416, 240), (320, 192), (256, 144))
"""(width, height) that the page offers, the largest first"""
SHARE = 0.5
"""of a device that the first session may take: the rest is for guided chunks, and for a browser on the same machine"""


def start_size(devices: Sequence[Admission], workload: Workload, now: float) -> tuple[int, int] | None:
    """The largest of SIZES that some device holds beside its open sessions; the smallest where none does.

    `workload` is a session of any size. None while nothing was measured.
    """
    measured = False
    for width, height in SIZES:
        session = workload.model_copy(update={"width": width, "height": height})
        for device in devices:
            seconds = device.costs.mean_base(session, "full") * device.costs.slowness(now)  # no hopeful trial
            share = seconds / session.period
            measured = measured or share > 0
            if 0 < share <= SHARE and device.load(now) + share <= 1 - device.config.reserve:
                return width, height
    return SIZES[-1] if measured else None
