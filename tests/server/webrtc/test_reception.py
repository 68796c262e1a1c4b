"""Packets come late, twice or never; frames come whole, in order and soon."""

import heapq
import itertools
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.webrtc.bitrate import Bitrates, RateFollower, Repeats, bitrates
from server.webrtc.reception import FrameAssembler, Packet, ReceptionConfig, Timeline, is_h264_key, is_vp8_key, vp8_size

KEY, DELTA = b"K", b"d"


def is_key(payload_type, data):
    return data.startswith(KEY)


def frame(sequence, timestamp, packets, key=False):
    """The packets of one frame: the first byte tells its kind, and the last packet has the marker."""
    kinds = [KEY if key and i == 0 else DELTA for i in range(packets)]
    return [
        Packet((sequence + i) % 65536, timestamp, i == packets - 1, 96, kind + bytes([i]))
        for i, kind in enumerate(kinds)
    ]


def started(sequence=1000):
    """An assembler whose first frame, a key frame of two packets, has gone."""
    assembler = FrameAssembler(is_key)
    for packet in frame(sequence, 0, 2, key=True):
        assembler.add(packet, 0.0)
    return assembler


def test_a_frame_is_whole_with_its_marker_and_not_with_the_next_frame():
    assembler = FrameAssembler(is_key)
    first, last = frame(7, 90, 2, key=True)
    assert assembler.add(first, 1.0) == []
    (whole,) = assembler.add(last, 2.0)
    assert (whole.data, whole.timestamp, whole.key, whole.arrival) == (b"K\0d\1", 90, True, 2.0)
    assert not whole.lost or assembler.counters.frames == 1


def test_a_stream_without_markers_still_yields_frames_when_the_timestamp_changes():
    assembler = FrameAssembler(is_key)
    packets = [Packet(i, i // 2, False, 96, KEY) for i in range(6)]
    assert [len(assembler.add(packet, 0.0)) for packet in packets] == [0, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_packets_may_come_in_any_order(order):
    assembler = started()
    packets = frame(1002, 6000, 2) + frame(1004, 12000, 2)
    frames = [f for i in order for f in assembler.add(packets[i], 0.0)]
    assert [f.timestamp for f in frames] == [6000, 12000]


def test_sequence_numbers_may_wrap():
    assembler = started(65534)
    frames = [f for p in frame(0, 6000, 2) + frame(2, 12000, 2) for f in assembler.add(p, 0.0)]
    assert [f.timestamp for f in frames] == [6000, 12000]


def test_a_retransmission_frees_every_frame_that_waited_for_it():
    """The library hands out one frame for each packet that comes, so that frames trailed behind for ever."""
    assembler = started()
    packets = frame(1002, 1, 1) + frame(1003, 2, 1) + frame(1004, 3, 1)
    assert [assembler.add(p, 0.0) for p in packets[1:]] == [[], []]
    assert [f.timestamp for f in assembler.add(packets[0], 0.1)] == [1, 2, 3]


def test_a_missing_packet_is_asked_for_again_until_it_comes():
    assembler = started()
    assembler.add(frame(1003, 2, 1)[0], 0.0)
    asked = [assembler.requests(t / 1000)[1].nack for t in range(0, 190, 10)]
    assert asked[0] == [1002]
    assert sum(map(bool, asked)) == 4, "at once and every 60 ms"
    assembler.add(frame(1002, 1, 1)[0], 0.2)
    assert assembler.requests(0.3)[1].nack == [] and not assembler.waiting


def test_the_end_of_a_picture_is_asked_for_before_the_next_one_shows_that_it_is_missing():
    """That took a frame's time more, 62 ms at 16 a second, before anything was asked."""
    assembler = started()
    first, last = frame(1002, 6000, 2)
    assembler.add(first, 1.0)
    assert assembler.waiting and assembler.requests(1.01)[1].nack == []
    assert assembler.requests(1.021)[1].nack == [1003]
    asked = [now for now in range(1030, 2000, 10) if assembler.requests(now / 1000)[1].nack]
    assert len(asked) == 1 and not assembler.waiting, "twice at most: there may be no more of it"
    (whole,) = assembler.add(last, 2.0)
    assert not whole.lost and assembler.counters.recovered == 1
    assembler.add(frame(1004, 12000, 1)[0], 2.0)
    assert not assembler.waiting and assembler.requests(3.0)[1].nack == [], "a picture that has ended"


def test_a_request_for_few_packets_is_sent_twice():
    assembler = started()
    assembler.add(frame(1006, 6000, 1)[0], 1.0)
    assert assembler.requests(1.0)[1].copies == 2
    assembler = started()
    assembler.add(frame(1050, 6000, 1)[0], 1.0)
    assert assembler.requests(1.0)[1].copies == 1


def test_answers_that_come_behind_a_full_queue_teach_to_ask_less_often():
    """Asked for every 60 ms over a way of 340 ms, each packet came six times over, and the queue stayed full."""
    assembler = started()
    assembler.add(frame(1003, 2, 1)[0], 0.0)
    for t in range(0, 340, 10):
        assembler.requests(t / 1000)
    assembler.add(frame(1002, 1, 1)[0], 0.34)
    assembler.add(frame(1005, 4, 1)[0], 1.0)
    asked = [bool(assembler.requests(1 + t / 1000)[1].nack) for t in range(0, 390, 10)]
    assert sum(asked) == 2, "at once and after 300 ms, the longest pause"


def test_a_hole_is_given_up_and_the_next_key_frame_says_that_pictures_are_lost():
    assembler = started()
    for number, at in ((1003, 9.0), (1004, 9.06), (1005, 9.12)):
        assembler.add(frame(number, number, 1)[0], at)
    frames, requests = assembler.requests(9.25)
    assert frames == [] and requests.key_frame, "a key frame is asked for before the hole is given up"
    assembler.requests(9.41)
    assert assembler.add(frame(1006, 1006, 1)[0], 9.42) == [], "a delta frame lacks its reference"
    (key,) = assembler.add(frame(1007, 1007, 1, key=True)[0], 9.45)
    assert key.lost and assembler.counters.given_up == 1
    (after,) = assembler.add(frame(1008, 1008, 1)[0], 9.5)
    assert not after.lost


def test_a_key_frame_behind_a_hole_is_not_kept_waiting_for_it():
    assembler = started()
    packets = frame(1003, 2, 2, key=True)
    assembler.add(packets[0], 0.0)
    assembler.add(packets[1], 0.0)
    assert assembler.requests(0.1)[0] == []
    (key,) = assembler.requests(0.21)[0]
    assert key.key and key.lost


def test_a_blackout_is_not_repaired_packet_by_packet():
    assembler = started()
    assembler.add(frame(2000, 9, 1)[0], 5.0)
    _, requests = assembler.requests(5.0)
    assert requests.key_frame and requests.nack == []


def test_pictures_that_would_come_too_late_are_not_asked_for():
    """After a blackout of 1.5 s the sender repeated every picture of it, each 1.5 s old when it came."""
    assembler = started()
    assembler.add(frame(1020, 90_000, 1)[0], 1.0)
    _, requests = assembler.requests(1.0)
    assert requests.key_frame and requests.nack == []


def test_a_camera_that_pauses_loses_nothing():
    assembler = started()
    assert len(assembler.add(frame(1002, 90_000 * 5, 1)[0], 5.0)) == 1


def test_key_frames_are_asked_for_at_most_so_often():
    assembler = FrameAssembler(is_key)
    asked = 0
    for i in range(1000):
        assembler.add(frame(i, i, 1)[0], i / 100)
        asked += assembler.requests(i / 100)[1].key_frame
    assert 8 <= asked <= 12, "after 0.3 s, then less and less often, down to every 1.2 s"


def test_what_waits_behind_a_hole_is_bounded():
    assembler = FrameAssembler(is_key, ReceptionConfig(give_up=60, max_waiting=64))
    assembler.add(frame(0, 0, 1, key=True)[0], 0.0)
    for i in range(2, 5000):
        assembler.add(frame(i, i, 1)[0], 0.0)
        assembler.requests(0.0)
    assert len(assembler._packets) <= 65 and assembler.counters.given_up > 0


def test_a_frame_without_an_end_is_dropped_whole():
    """Each packet of it was kept, 1.3 kB and 14 us, as long as it went on."""
    assembler = FrameAssembler(is_key, ReceptionConfig(max_parts=64))
    for number in range(1000):
        assembler.add(Packet(number, 5, False, 96, KEY * 10), 0.0)
        assert len(assembler._parts) <= 64
    assert assembler.counters.oversized == 1 and "64 packets" in assembler.fault
    assert assembler.add(Packet(1000, 5, True, 96, KEY), 0.0) == [], "the rest of it is no frame of its own"
    assert [whole.lost for p in frame(1001, 6, 2, key=True) for whole in assembler.add(p, 0.0)] == [True]


def test_the_bytes_of_a_frame_are_bounded():
    assembler = FrameAssembler(is_key, ReceptionConfig(max_frame=1 << 16))
    for number in range(200):
        assembler.add(Packet(number, 5, False, 96, KEY * 1000), 0.0)
    assert sum(len(part.data) for part in assembler._parts) <= 1 << 16
    assert assembler.counters.oversized == 1


def test_many_small_holes_are_as_bounded_as_a_large_one():
    """Each 257th packet made 256 missing ones: 100,000 of them were gone through for every packet."""
    assembler = FrameAssembler(is_key)
    for number in range(0, 60_000, 257):
        assembler.add(Packet(number, 0, False, 96, DELTA), 0.0)
        assembler.requests(0.0)
        assert len(assembler._missing) <= 256


def test_packets_behind_a_hole_are_not_gone_through_again_and_again():
    """Each packet looked for a key frame in all that waited: 346 us with 2,000 of them."""
    looked = []
    assembler = FrameAssembler(lambda payload_type, data: looked.append(1))
    assembler.add(Packet(0, 5, True, 96, DELTA), 0.0)
    for number in range(2, 2000):
        assembler.add(Packet(number, 9, False, 96, DELTA), 0.1)
        assembler.requests(0.1)
    assert len(looked) <= 2001


def test_another_layer_begins_anew_with_a_key_frame_that_is_requested_at_once():
    assembler = started(1000)
    assembler.restart()
    (delta,) = frame(40_000, 7, 1)
    assert assembler.add(delta, 5.0) == [] and assembler.requests(5.0)[1].key_frame
    assert [whole.lost for p in frame(40_001, 8, 2, key=True) for whole in assembler.add(p, 5.1)] == [True]


def test_a_packet_that_comes_twice_changes_nothing():
    assembler = started()
    for packet in frame(1000, 0, 2, key=True) * 2:
        assert assembler.add(packet, 0.0) == []
    assert assembler.counters.late == 4


def test_any_packets_at_all_leave_it_in_order_and_bounded():
    rng = random.Random(5)
    assembler = FrameAssembler(is_key)
    for i in range(20_000):
        packet = Packet(
            rng.choice([rng.randrange(65536), i % 65536, (i + rng.randint(-20, 20)) % 65536]),
            rng.randrange(1 << 32),
            rng.random() < 0.3,
            96,
            rng.choice([KEY, DELTA, b"", bytes(rng.randrange(256) for _ in range(12))]),
        )
        assembler.add(packet, i / 1000)
        assembler.requests(i / 1000)
    assert len(assembler._packets) <= 2049 and len(assembler._missing) <= 2049


class Link:
    """A sender that answers requests, a way that loses packets, a receiver; virtual time."""

    def __init__(self, loss, burst=1, delay=0.02, packets=8, seed=0, config=None):
        self.rng = random.Random(seed)
        self.loss, self.burst, self.delay, self.packets = loss, burst, delay, packets
        self.assembler = FrameAssembler(is_key, config)
        self.history, self.repeats, self.events, self.count = {}, Repeats(), [], itertools.count()
        self.sequence, self.want_key, self.bad = 0, True, False
        self.shown = []

    def loses(self):
        if self.burst == 1:
            return self.rng.random() < self.loss
        self.bad = self.rng.random() >= 1 / self.burst if self.bad else self.rng.random() < self.loss / self.burst
        return self.bad

    def send(self, now, what):
        if not self.loses():
            heapq.heappush(self.events, (now + self.delay, next(self.count), what))

    def run(self, seconds):
        for i in range(int(seconds * 16)):
            heapq.heappush(self.events, (i / 16, next(self.count), ("frame", i)))
        for i in range(int(seconds * 100)):
            heapq.heappush(self.events, (i / 100, next(self.count), ("tick", i)))
        while self.events:
            now, _, (kind, what) = heapq.heappop(self.events)
            getattr(self, kind)(what, now)
        return self

    def frame(self, index, now):
        count = self.packets * (6 if self.want_key else 1)
        for packet in frame(self.sequence, index * 5625, count, self.want_key):
            self.history[packet.sequence] = packet
            self.send(now, ("packet", packet))
        self.sequence, self.want_key = (self.sequence + count) % 65536, False

    def packet(self, packet, now):
        self.show(self.assembler.add(packet, now), now)
        self.ask(now)

    def tick(self, _, now):
        if self.assembler.waiting:
            self.ask(now)

    def ask(self, now):
        frames, requests = self.assembler.requests(now)
        self.show(frames, now)
        for _ in range(requests.copies if requests.nack else 0):
            self.send(now, ("nack", requests.nack))
        if requests.key_frame:
            self.send(now, ("pli", None))

    def nack(self, numbers, now):
        for number in filter(self.history.get, numbers):
            for _ in range(self.repeats.copies(number, 2_300_000, 2 * self.delay, now)):
                self.send(now, ("packet", self.history[number]))

    def pli(self, _, now):
        self.want_key = True

    def show(self, frames, now):
        self.shown += [(now, f.timestamp // 5625, f.lost) for f in frames]

    @property
    def longest_gap(self):
        times = [now for now, _, _ in self.shown]
        return max(b - a for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.03, 0.05])
def test_random_loss_freezes_the_picture_for_300_ms_at_most(loss):
    """Over three minutes; the library's own receiver froze for 3.4 s at 1 % within twenty seconds."""
    links = [Link(loss, seed=seed).run(30) for seed in range(6)]
    assert max(link.longest_gap for link in links) <= 0.3
    assert sum(len(link.shown) for link in links) >= 0.995 * 6 * 30 * 16


def test_a_request_that_is_lost_itself_makes_no_tail():
    """At 2.3 Mbit/s; 330 ms where each was sent once, and only when the next picture had come."""
    links = [Link(0.05, packets=15, seed=seed).run(10) for seed in range(20)]
    assert max(link.longest_gap for link in links) <= 0.22


def test_bursts_of_four_freeze_the_picture_for_700_ms_at_most():
    links = [Link(0.03, burst=4, seed=seed).run(30) for seed in range(6)]
    assert max(link.longest_gap for link in links) <= 0.7


@pytest.mark.parametrize(("loss", "burst"), [(0.05, 1), (0.1, 1), (0.05, 4), (0.3, 1)])
def test_frames_stay_in_order_and_each_loss_is_told_once(loss, burst):
    link = Link(loss, burst, seed=3).run(60)
    numbers = [number for _, number, _ in link.shown]
    assert numbers == sorted(set(numbers))
    for (_, before, _), (_, number, lost) in itertools.pairwise(link.shown):
        assert lost == (number != before + 1), "a flag exactly where frames are missing"


def test_a_picture_comes_back_after_a_blackout():
    link = Link(0.0)
    link.run(4)
    link.loss = 1.0
    offset = link.sequence
    for i in range(80):
        link.frame(1000 + i, 4 + i / 16)
    link.loss = 0.0
    assert link.sequence != offset
    link.assembler.requests(9.0)
    for i in range(16):
        heapq.heappush(link.events, (9 + i / 16, next(link.count), ("frame", 2000 + i)))
    link.run(0)
    first = next(now for now, number, _ in link.shown if number >= 2000)
    assert first <= 9.2


def test_time_goes_on_over_wraps_and_jumps():
    timeline = Timeline()
    stamps = [2**32 - 3000, 0, 3000, 90000 * 3600, 5, 3005]
    assert [timeline.map(stamp) for stamp in stamps] == [0, 3000, 6000, 9000, 12000, 15000]


def test_codec_headers_are_read():
    vp8 = b"\x10\x00\x00\x9d\x01\x2a\x40\x03\xe0\x01rest"
    assert is_vp8_key(vp8) and vp8_size(vp8) == (832, 480)
    assert not is_vp8_key(b"\x11" + vp8[1:]) and not is_vp8_key(vp8[:9]) and not is_vp8_key(b"")
    assert is_h264_key(b"\0\0\0\1\x67abc\0\0\0\1\x68\0\0\0\1\x65") and not is_h264_key(b"\0\0\0\1\x41abc")
    assert not is_h264_key(b"") and not is_h264_key(b"\0\0\1")


@given(st.binary(max_size=40).map(lambda data: data.translate(bytes(n % 9 if n < 200 else n for n in range(256)))))
def test_an_h264_key_frame_is_known_by_any_of_its_units(data):
    units = [unit for unit in data.split(b"\0\0\1")[1:] if unit]
    assert is_h264_key(data) == any(unit[0] & 0x1F in (5, 7) for unit in units)


def test_two_million_bytes_of_start_codes_are_looked_through_in_a_moment():
    """A frame of nothing but start codes held the event loop for 0.3 s."""
    start = time.thread_time()
    assert not is_h264_key(b"\0\0\1" * 700_000)
    assert time.thread_time() - start < 0.1


@pytest.mark.parametrize("step", [2, 150, 201, 255, 301])
def test_a_sender_that_leaves_packets_out_makes_little_work(step):
    """4,000 packets a second, each after a hole of 200, made 400,000 requests and 2,000 key frame requests a second."""
    assembler, asked, key_frames = started(0), 0, 0
    for i in range(8000):
        assembler.add(Packet((2 + step * i) % 65536, 9, False, 96, DELTA), i / 4000)
        requests = assembler.requests(i / 4000)[1]
        asked, key_frames = asked + len(requests.nack) * requests.copies, key_frames + requests.key_frame
    assert asked < 20_000 and key_frames <= 30


def test_a_larger_picture_deserves_more_bits_but_fewer_a_pixel():
    small, large = bitrates(416, 240, 16), bitrates(832, 480, 16)
    assert small.start < large.start == 2_300_000 < large.most
    assert small.start / (416 * 240) > large.start / (832 * 480)


def follower(start=2_000_000):
    follower = RateFollower(Bitrates(start, 200_000, 4_000_000))
    assert follower.choose(0.0) == start
    return follower


def test_an_estimate_of_a_simple_picture_does_not_lower_its_rate():
    """The receiver estimates what it gets: a simple scene left the encoder at a tenth of its rate."""
    rate = follower()
    rate.sent = 150_000
    for i in range(20):
        rate.observe(160_000)
        assert rate.choose(i / 2) == 2_000_000


def test_a_thin_link_is_obeyed_at_once_and_won_back_in_few_steps():
    rate = follower()
    rate.sent = 2_000_000
    rate.observe(850_000)
    assert rate.choose(1.1) == 850_000
    steps = 0
    for i in range(120):
        rate.sent = rate.current
        before = rate.current
        rate.observe(min(1.5 * rate.current, 3_000_000))
        steps += rate.choose(1.1 + i / 2) != before
    assert rate.current > 2_000_000 and steps <= 4


def test_small_changes_wait_for_a_key_frame_that_is_due_anyway():
    rate = follower(1_000_000)
    rate.sent = 1_000_000
    rate.observe(1_250_000)
    assert rate.choose(10.0) == 1_000_000
    assert rate.choose(10.0, free=True) == 1_250_000


def test_heavy_loss_is_a_thin_link_and_light_loss_is_not():
    """Without the receiver's reports of loss, key frames and repeats filled a thin link, and nothing arrived."""
    rate = follower()
    for share in (0.13, 0.0, 0.08, 0.13, 0.0, 0.05):
        rate.lose(share)
    assert rate.choose(2.0) == 2_000_000
    for second in range(4):
        rate.lose(0.5)
        rate.choose(3.0 + 1.1 * second)
    assert rate.current < 1_000_000
