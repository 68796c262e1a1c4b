"""Live video restoration from Python: sends video to an AVIS server and gives back what it restored."""

from avis_client.restoring import Frame, restore
from avis_client.session import Refused, Session, Unreachable

__all__ = ["Frame", "Refused", "Session", "Unreachable", "restore"]
