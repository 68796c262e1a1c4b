"""How often one session may change, and be resumed. Pure but for the attempt that is under way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from server.quotas import TokenBucket

CHANGE_RATE, CHANGES = 2.0, 8.0
"""changes of one session a second, and at once"""
RESUME_RATE, RESUMES = 1.0, 6.0
"""attempts to resume one session a second, and at once: each makes a connection"""


@dataclass
class Pace:
    """How often a session may change, as a new operator costs the device a plan, and how often it may be resumed."""

    changes: TokenBucket = field(default_factory=lambda: TokenBucket(CHANGE_RATE, CHANGES))
    resumes: TokenBucket = field(default_factory=lambda: TokenBucket(RESUME_RATE, RESUMES))
    changing: bool = False
    """a change is under way"""
    dial: asyncio.Task[str] | None = None
    """an attempt to resume that is under way"""
