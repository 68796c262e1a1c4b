"""`restore`: frames in, restored frames out. Waits for a place, and takes up a session whose connection was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from avis_client.session import Refused, Report, Session, Unreachable
from avis_client.sources import Feed, FeedTrack, Pixels, Source

CONNECTING = 15.0
"""seconds from an answer to the connection"""
SILENCE = 5.0
"""seconds without a frame after which a connection counts as lost, or a source that ended as restored"""
LONGEST_WAIT = 10.0
"""seconds between two attempts at most"""


@dataclass(frozen=True)
class Frame:
    """One restored frame."""

    picture: av.VideoFrame

    @property
    def time(self) -> float:
        """Seconds since the first frame of its connection."""
        return float(self.picture.time or 0.0)

    @property
    def pixels(self) -> Pixels:
        """[H, W, 3], RGB."""
        return self.picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


async def restore(
    source: Source,
    *,
    operator: str | Mapping[str, Any] = "super_resolution",
    url: str = "http://127.0.0.1:8080",
    token: str | None = None,
    mode: str = "incoming",
    fps: float = 16.0,
    size: tuple[int, int] | None = None,
    solver: Mapping[str, Any] | None = None,
    patience: float = 30.0,
    on_report: Callable[[Report], None] | None = None,
    **more: Any,
) -> AsyncIterator[Frame]:
    """Restores `source` live: `async for frame in restore("in.mp4", operator="denoise")`.

    `operator` is a kind, or a mapping with its parameters. `size` is (width, height) of restored frames. `patience`:
    seconds to wait in line at a full server, and to try again after a lost connection. `more` are other fields of
    POST /sessions. Live means that what is too late is left out: for whole files there is `avis restore`.
    Raises Refused, Unreachable, and what reading the source raises.
    """
    request: dict[str, Any] = {"operator": {"kind": operator} if isinstance(operator, str) else dict(operator)}
    request |= {"mode": mode, "fps": fps, "solver": dict(solver or {}), **more}
    if size is not None:
        request["size"] = f"{size[0]}x{size[1]}"
    feed, count = Feed(source, fps), 0
    attempts = Attempts(url, token, request, patience, on_report)
    try:
        await feed.start()
        while feed.ended is None:
            session = await attempts.next(feed)
            async for picture in received(session, feed):
                if feed.ended is not None and count >= round(feed.ended * fps):
                    break  # the rest repeats its last frame
                count += 1
                yield Frame(picture)
        if feed.fault is not None:
            raise feed.fault
    finally:
        await attempts.close()
        await feed.close()


async def received(session: Session, feed: Feed) -> AsyncIterator[av.VideoFrame]:
    """The frames that come back, until the connection is lost or the source has been restored."""
    track: MediaStreamTrack = await session.track
    with suppress(MediaStreamError, TimeoutError):
        while True:
            async with asyncio.timeout(SILENCE):
                picture = await track.recv()
            assert isinstance(picture, av.VideoFrame)
            yield picture


class Attempts:
    """One session after another on one feed: the first, and those that take up one which was lost."""

    def __init__(
        self,
        url: str,
        token: str | None,
        request: dict[str, Any],
        patience: float,
        on_report: Callable[[Report], None] | None,
    ):
        self._make = lambda: Session(url, token, on_report)
        self._request = request
        self._patience = patience
        self._session: Session | None = None

    async def next(self, feed: Feed) -> Session:
        """The next session, connected. Raises what the last attempt raised when patience ends."""
        lost, self._session = self._session, None
        if lost is not None and lost.reason is not None:
            await lost.close()
            raise Unreachable(f"the server closed the session: {lost.reason}")
        clock = asyncio.get_running_loop().time
        until, wait, ticket = clock() + self._patience, 0.25, None
        resume: dict[str, Any] = {"resume": lost.id} if lost is not None else {}
        try:
            while True:
                asks = resume or {"queue": True, **({"ticket": ticket} if ticket else {})}
                try:
                    self._session = await self._once(feed, {**self._request, **asks})
                    return self._session
                except Refused as refused:
                    resume = {} if refused.status == 404 else resume
                    ticket = refused.ticket or ticket
                    wait = float(refused.retry_after or wait)
                    if not refused.retryable and not (refused.status == 404 and lost is not None):
                        raise
                    if clock() + wait > until:
                        raise
                except Unreachable:
                    if lost is None or clock() + wait > until:
                        raise
                await asyncio.sleep(wait)
                wait = min(LONGEST_WAIT, 2 * wait)
        finally:
            if lost is not None:
                await lost.abandon()  # last: closing it would end a session that nobody has taken up

    async def _once(self, feed: Feed, request: Mapping[str, Any]) -> Session:
        session = self._make()
        try:
            await session.open(FeedTrack(feed), request)
            async with asyncio.timeout(CONNECTING):
                await session.connected.wait()
        except BaseException as error:
            await (session.abandon() if "resume" in request else session.close())
            if isinstance(error, TimeoutError):
                raise Unreachable(f"no connection within {CONNECTING:g} s: a firewall may block UDP") from None
            raise
        return session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
