"""One track played to any number of peers. A slow peer loses its own frames only."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError


class PlayerTrack(MediaStreamTrack):
    """One peer's share of a broadcast: the newest frames that it keeps up with."""

    def __init__(self, kind: str, limit: int):
        super().__init__()
        self.kind = kind
        self.dropped = 0
        self._frames: deque[Any] = deque()
        self._limit = limit
        self._changed = asyncio.Event()

    def offer(self, frame: Any) -> None:
        """Queues a frame. Over the limit, the oldest one is dropped."""
        if len(self._frames) >= self._limit:
            self._frames.popleft()
            self.dropped += 1
        self._frames.append(frame)
        self._changed.set()

    def stop(self) -> None:
        super().stop()
        self._changed.set()

    async def recv(self) -> Any:
        while not self._frames:
            if self.readyState != "live":
                raise MediaStreamError("the broadcast ended")
            self._changed.clear()
            await self._changed.wait()
        return self._frames.popleft()


class Broadcast:
    """Takes every frame of `source` when it is due, and hands it to the players, if there are any."""

    def __init__(self, source: MediaStreamTrack, limit: int):
        self._source = source
        self._limit = limit
        self._players: set[PlayerTrack] = set()
        self.ended = asyncio.Event()

    def join(self, limit: int | None = None) -> PlayerTrack:
        """A track for one more peer, with a limit of its own if it is given one."""
        player = PlayerTrack(self._source.kind, limit or self._limit)
        self._players.add(player)
        return player

    def leave(self, player: PlayerTrack) -> None:
        self._players.discard(player)
        player.stop()

    async def run(self) -> None:
        """Plays until the source ends."""
        try:
            while True:
                frame = await self._source.recv()
                self._players = {player for player in self._players if player.readyState == "live"}
                for player in self._players:
                    player.offer(frame)
        except MediaStreamError:
            return
        finally:
            self.ended.set()
            for player in list(self._players):
                self.leave(player)
