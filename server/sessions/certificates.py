"""Certificates of recorded sessions: what a chunk's line says, and what the header does. Knows no file."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.certificates.keys import raw, signing_key
from server.certificates.live import Facts, LiveCertificate
from server.certificates.records import Header, ModelRecord, Sizes
from server.device.messages import Loaded
from server.device.work import RestoredChunk, Work
from server.scheduling.scheduler import Job
from server.sessions.config import SessionConfig
from server.settings import Settings


def certifier(
    config: SessionConfig, settings: Settings, loaded: Callable[[], Loaded | None]
) -> Callable[[Path], LiveCertificate] | None:
    """What certifies the recording of a session, where the server has a key and the session a measurement.

    `loaded` is asked when the first chunk is there: what the session's device has loaded.
    """
    key = settings.certificate_key
    if key is None or config.mode == "simulate":
        return None

    def certify(video: Path) -> LiveCertificate:
        signer = signing_key(key)
        return LiveCertificate(video, signer, lambda facts: header_of(facts, signer, config, settings, loaded()))

    return certify


def header_of(
    facts: Facts, key: Ed25519PrivateKey, config: SessionConfig, settings: Settings, loaded: Loaded | None
) -> Header:
    height, width = facts.size
    measured = facts.operator.measurement_size(height, width)
    shown = (height, width * len(config.panels))
    model = ModelRecord(
        name=settings.model,
        codec=settings.codec,
        device=loaded.device if loaded else settings.device,
        backend=loaded.backend if loaded else "",
        settings=settings.model_settings,
        weights=loaded.weights if loaded else {},
    )
    return Header(
        public_key=raw(key.public_key()),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        tool=f"avis-server {version('avis-server')}",
        libraries={name: version(name) for name in ("av", "torch", "numpy")},
        model=model,
        sizes=Sizes(taken=measured, fed=measured, restored=facts.size, shown=shown, scaled=None),
        rate=f"{config.fps:g}",
        latency=config.latency,
        operator=facts.operator.model_dump(mode="json"),
        solver=facts.solver.model_dump(mode="json"),
        seed=config.seed,
        reading=None,
        panels=config.panels,
    )


def facts_of(job: Job[Work], restored: RestoredChunk | None) -> Facts:
    """What is known of a chunk as it leaves; `restored` is None of one that passed through."""
    work, y = job.work, job.chunk.frames
    size = (work.spec.height, work.spec.width)
    if restored is None:
        return Facts(y, size, work.operator, work.solver, "passthrough", lost=work.lost)
    stepped, plan = restored.stepped, restored.plan
    return Facts(
        y, size, work.operator, plan.solver, plan.rung, stepped.guided, stepped.residual, stepped.trust, work.lost
    )
