"""Sound leaves when its picture does, whatever the picture's latency does."""

import itertools
import random

from aiortc.mediastreams import MediaStreamError

from server.media.audio import SoundPlayout
from server.media.broadcast import Broadcast


def play(latency, seconds=20, jitter=0.0, seed=1):
    """(source time, departure) of every packet of 20 ms, while pictures leave `latency(now)` after they came."""
    rng = random.Random(seed)
    playout = SoundPlayout()
    coming = sorted((n * 0.02 + rng.uniform(0, jitter), n * 0.02) for n in range(int(seconds * 50)))
    left = []
    for tick in range(int(seconds * 200)):
        now = 100 + tick / 200
        while coming and 100 + coming[0][0] <= now:
            arrival, source = coming.pop(0)
            playout.put(source, source, 100 + arrival)
        if tick % 12 == 0 and latency(now - 100) is not None:
            playout.follow(latency(now - 100))
        while taken := playout.take(now):
            left.append((taken[1], now - 100, taken[0]))
    return playout, left


def test_sound_is_as_late_as_the_picture_within_45_ms():
    _playout, left = play(lambda now: 1.2 if now > 1.2 else None)
    assert max(abs(out - source - 1.2) for source, out, _ in left) < 0.045
    assert len(left) > 900


def test_sound_follows_when_the_picture_falls_behind_and_when_it_catches_up():
    playout, left = play(lambda now: None if now < 1 else 1.0 if now < 8 else 1.6 if now < 14 else 0.9)
    settled = [(source, out) for source, out, _ in left if not 8 <= out < 10.5 and not 14 <= out < 16]
    for source, out in settled:
        wanted = 1.0 if out < 8 else 1.6 if out < 14 else 0.9
        assert abs(out - source - wanted) < 0.045, out
    assert 0 < playout.dropped < 60, "sound that is too late is dropped, once"


def test_jitter_of_the_way_is_not_heard():
    _, left = play(lambda now: 1.0 if now > 1 else None, jitter=0.06)
    stamps = [stamp for _, _, stamp in left]
    steps = [round((b - a) * 1000) for a, b in itertools.pairwise(stamps)]
    assert steps.count(20) > 0.99 * len(steps), "stamps are the sender's, not the network's"


def test_packets_leave_in_order_though_they_come_out_of_order():
    playout = SoundPlayout()
    playout.follow(0.5)
    for source in (0.0, 0.04, 0.02, 0.06):
        playout.put(source, source, 10 + source)
    assert [playout.take(10.5 + n * 0.02)[1] for n in range(4)] == [0.0, 0.02, 0.04, 0.06]


def test_sound_without_a_picture_is_bounded_and_not_played():
    playout = SoundPlayout(capacity=100)
    for n in range(1000):
        playout.put(n, n * 0.02, n * 0.02)
    assert playout.take(1e9) is None and playout.dropped == 900


class Numbers:
    """A source of numbers that ends."""

    kind = "video"

    def __init__(self, last):
        self.next, self.last = 0, last

    async def recv(self):
        if self.next == self.last:
            raise MediaStreamError
        self.next += 1
        return self.next


async def test_a_slow_player_loses_its_oldest_frames_and_others_lose_none():
    broadcast = Broadcast(Numbers(10), limit=4)
    slow, left = broadcast.join(), broadcast.join()
    broadcast.leave(left)
    await broadcast.run()
    assert slow.dropped == 6 and [await slow.recv() for _ in range(4)] == [7, 8, 9, 10]
