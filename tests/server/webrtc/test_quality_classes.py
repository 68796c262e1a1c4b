"""Players that share encoders: each gets what it can decode, and a picture is encoded once a class."""

import asyncio
from collections import Counter
from fractions import Fraction

import av
import numpy as np
import pytest

from server.webrtc.bitrate import LEAST_BPS, bitrates
from server.webrtc.encoder import PictureEncoder
from server.webrtc.quality_classes import CLASSES, IDLE, KEPT, QualityClasses, SharedEncoder, class_for, class_rate

FPS, WIDTH, HEIGHT = 16, 416, 240
START = bitrates(WIDTH, HEIGHT, FPS).start
BLOCKS = np.random.default_rng(0).integers(0, 256, (HEIGHT * 3 // 16, 2 * WIDTH // 8), np.uint8)
SCENE = BLOCKS.repeat(8, 0).repeat(8, 1)


def picture(number):
    planes = np.ascontiguousarray(SCENE[:, number % WIDTH : number % WIDTH + WIDTH])
    frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
    frame.pts, frame.time_base = number * 90_000 // FPS, Fraction(1, 90_000)
    return frame


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Player:
    """Decodes what it gets, and holds that nothing it gets refers to what it did not get."""

    def __init__(self, classes):
        self.encoder = SharedEncoder(classes)
        self.decoder = av.CodecContext.create("vp8", "r")
        self.shown, self.payloads, self.keys = [], [], 0

    async def play(self, number, frame, key=False):
        payloads, timestamp = await self.encoder.encode(frame, key)
        self.payloads.append(payloads)
        if payloads:
            assert timestamp == frame.pts
            data = b"".join(payload[payload_header(payload) :] for payload in payloads)
            self.keys += not data[0] & 1
            assert not data[0] & 1 or self.shown, "the first picture is a key frame"
            assert len(self.decoder.decode(av.Packet(data))) == 1
            self.shown.append(number)


def payload_header(payload):
    """Bytes of the payload descriptor (RFC 7741, 4.2) with a picture id and nothing else."""
    return 1 if not payload[0] & 0x80 else 4 if payload[2] & 0x80 else 3


@pytest.fixture
def encoded(monkeypatch):
    """How often each picture was encoded, by rate and time."""
    found = Counter()
    encode = PictureEncoder.encode

    def counted(self, frame, bps, key=False):
        found[bps, frame.pts] += 1
        return encode(self, frame, bps, key)

    monkeypatch.setattr(PictureEncoder, "encode", counted)
    return found


def start(players=1, key_frame_every=0.5):
    clock = Clock()
    classes = QualityClasses(FPS, key_frame_every, clock)
    return clock, classes, [Player(classes) for _ in range(players)]


async def play(clock, players, numbers, ask=()):
    """Plays pictures to all players at once; those of `ask` want a key frame for the first."""
    for index, number in enumerate(numbers):
        clock.now += 1 / FPS
        frame = picture(number)
        await asyncio.gather(*(p.play(number, frame, index == 0 and p in ask) for p in players))


@pytest.mark.parametrize("bps, number", [(10 * START, 0), (START, 0), (0.9 * START, 1), (0.3 * START, 2), (1, 2)])
def test_a_path_plays_the_best_class_that_it_carries(bps, number):
    assert class_for(bps, WIDTH, HEIGHT, FPS) == number


@pytest.mark.parametrize("size", [(64, 64), (416, 240), (832, 480)])
def test_classes_fall_in_rate_and_none_is_below_the_least(size):
    rates = [class_rate(number, *size, FPS) for number in range(len(CLASSES))]
    assert rates == sorted(rates, reverse=True) and rates[-1] >= LEAST_BPS


async def test_a_picture_is_encoded_once_for_all_players(encoded):
    clock, _, players = start(20)
    await play(clock, players, range(6))
    assert set(encoded.values()) == {1} and len(encoded) == 6
    assert all(player.payloads == players[0].payloads and player.shown == list(range(6)) for player in players)


async def test_one_that_joins_begins_with_the_next_picture_which_is_a_key_frame_for_all():
    clock, classes, players = start(2)
    await play(clock, players, range(10))
    players.append(Player(classes))
    await play(clock, players, range(10, 14))
    assert players[-1].shown == [11, 12, 13] and [player.keys for player in players] == [2, 2, 1]


async def test_many_that_ask_at_once_cost_one_key_frame_and_soon_again_none():
    clock, _, players = start(20)
    await play(clock, players, range(10))
    await play(clock, players, range(10, 12), ask=players)
    await play(clock, players, range(12, 14), ask=players)
    assert {player.keys for player in players} == {2}
    await play(clock, players, range(14, 30))
    assert {player.keys for player in players} == {3}, "the key frame that came too early is delayed, not dropped"


async def test_one_that_missed_a_picture_shows_nothing_that_refers_to_it():
    clock, _, (steady, slow) = start(2)
    await play(clock, [steady, slow], range(10))
    await play(clock, [steady], [10])
    await play(clock, [steady, slow], range(11, 16))
    assert steady.shown == list(range(16))
    assert slow.shown == [*range(10), *range(12, 16)], "picture 11 refers to 10; the key frame is 12"


async def test_one_that_is_behind_gets_the_same_pictures_later():
    clock, _, (steady, behind) = start(2)
    await play(clock, [steady, behind], [0])
    await play(clock, [steady], range(1, 6))
    await play(clock, [behind], range(1, 6))
    assert behind.payloads == steady.payloads and behind.keys == 1


async def test_one_that_is_too_far_behind_goes_on_with_a_key_frame():
    clock, _, (steady, behind) = start(2)
    await play(clock, [steady, behind], [0])
    await play(clock, [steady], range(1, 2 * KEPT))
    await play(clock, [behind], [1])
    await play(clock, [steady, behind], range(2 * KEPT, 2 * KEPT + 3))
    assert behind.shown[0] == 0 and behind.shown[-1] == 2 * KEPT + 2 and behind.keys == 2


async def test_a_thin_path_plays_a_lower_class_and_costs_the_others_nothing(encoded):
    clock, classes, (wide, thin) = start(2)
    thin.encoder.capacity = START / 2
    await play(clock, [wide, thin], range(16))
    assert wide.keys == thin.keys == 1 and classes.running == [0, 2]
    sizes = [sum(len(p) for payloads in player.payloads[1:] for p in payloads) for player in (wide, thin)]
    assert sizes[1] < 0.6 * sizes[0] and set(encoded.values()) == {1}


async def test_a_path_that_grows_thin_changes_class_with_a_key_frame():
    clock, classes, (wide, thin) = start(2)
    await play(clock, [wide, thin], range(16))
    for _ in range(3):
        thin.encoder.target_bitrate = START // 3
    await play(clock, [wide, thin], range(16, 24))
    assert classes.running == [0, 2] and thin.keys == 2 and wide.keys == 1
    assert thin.shown == wide.shown and thin.encoder.rebuilds == 2


async def test_a_class_that_nobody_plays_gives_its_encoder_back():
    clock, classes, (wide, thin) = start(2)
    thin.encoder.capacity = START / 2
    await play(clock, [wide, thin], range(3))
    clock.now += IDLE
    await play(clock, [wide], [3])
    assert classes.running == [0]


async def test_a_player_that_goes_in_the_middle_of_a_picture_leaves_the_others_theirs(encoded):
    clock, _, players = start(3)
    await play(clock, players, range(3))
    frame = picture(3)
    gone = asyncio.ensure_future(players[0].play(3, frame))
    rest = [asyncio.ensure_future(player.play(3, frame)) for player in players[1:]]
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(*rest)
    await play(clock, players[1:], range(4, 6))
    assert all(player.shown == list(range(6)) for player in players[1:]) and set(encoded.values()) == {1}
