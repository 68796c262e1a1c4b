import random
from itertools import pairwise

import pytest

from server.media.playout import Playout

FPS = 16
PERIOD = 12 / FPS


def play(playout, arrivals, until, step=1 / 64):
    """Chunk k of 12 frames comes at arrivals[k]; returns (time, output slot, frame) of all that is played."""
    played, waiting, now = [], list(enumerate(arrivals)), 0.0
    while now < until:
        while waiting and waiting[0][1] <= now:
            k, _ = waiting.pop(0)
            playout.put([(12 * k + n, 12 * k + n) for n in range(12)], now)
        while (taken := playout.take(now)) is not None:
            played.append((now, taken[0], taken[1]))
        now += step
    return played


def steady(count, delay=0.5):
    return [k * PERIOD + delay for k in range(count)]


def test_chunks_in_time_leave_frame_by_frame_at_an_even_pace():
    playout = Playout(FPS)
    played = play(playout, steady(20), 15)
    assert [frame for _, _, frame in played] == list(range(len(played)))
    assert [slot for _, slot, _ in played] == list(range(len(played)))
    times = [time for time, _, _ in played]
    assert all(abs(b - a - 1 / FPS) <= 1 / 64 for a, b in pairwise(times))
    assert (playout.underruns, playout.late) == (0, 0)


def test_a_late_chunk_shifts_the_clock_once_and_no_frame_is_lost():
    arrivals = steady(20)
    arrivals[5] += 0.4
    playout = Playout(FPS, window=100)
    played = play(playout, arrivals, 15)
    assert playout.underruns == 1
    assert [frame for _, _, frame in played] == list(range(len(played)))
    slots = [slot for _, slot, _ in played]
    assert slots == sorted(set(slots))


def test_output_timestamps_keep_the_pace_of_the_clock_through_an_underrun():
    arrivals = steady(20)
    arrivals[5] += 0.4
    played = play(Playout(FPS, window=100), arrivals, 15)
    start = played[0][0]
    assert all(abs(time - start - slot / FPS) < 2 / 64 for time, slot, _ in played)


def test_latency_that_is_not_needed_is_won_back():
    arrivals = steady(60)
    arrivals[5] += 1.5
    playout = Playout(FPS)
    played = play(playout, arrivals, 40)
    latency = {frame: time - (frame // 12 * PERIOD + 0.5 + frame % 12 / FPS) for time, _, frame in played}
    assert latency[100] > 0.9
    assert latency[max(latency)] < 0.35
    assert playout.caught_up >= 10
    gone = sorted(set(range(max(latency))) - latency.keys())
    assert all(b - a >= playout.stride for a, b in pairwise(gone)), "one frame in `stride` at most"


def test_jitter_within_the_preroll_costs_nothing_and_is_not_mistaken_for_slack():
    rng = random.Random(0)
    playout = Playout(FPS, preroll=0.2)
    arrivals = [t + rng.uniform(0, 0.15) for t in steady(80)]
    play(playout, arrivals, 60)
    assert playout.underruns <= 1
    assert playout.caught_up <= 3


def test_whoever_takes_too_slowly_gets_the_newest_frame_that_is_due():
    playout = Playout(FPS)
    playout.put([(n, n) for n in range(24)], 0.0)
    _, first, _ = playout.take(0.1)
    _, frame, dropped = playout.take(1.15)
    assert (first, frame, dropped) == (0, 16, list(range(1, 16)))
    assert playout.late == 15


def test_the_queue_is_bounded_and_drops_its_oldest():
    playout = Playout(FPS, capacity=24)
    dropped = [frame for k in range(5) for frame in playout.put([(12 * k + n, 12 * k + n) for n in range(12)], 0.0)]
    assert playout.waiting == 24
    assert dropped == list(range(36))


def test_a_chunk_may_come_after_the_one_that_follows_it_but_not_after_that_has_left():
    playout = Playout(FPS)
    playout.put([(n, n) for n in range(9)], 0.0)
    playout.put([(n, n) for n in range(21, 33)], 0.1)
    assert playout.put([(n, n) for n in range(9, 21)], 0.2) == []
    frames = [playout.take(0.1 + n / FPS + 1e-6)[1] for n in range(33)]
    assert frames == list(range(33))
    assert playout.put([(n, n) for n in range(20, 33)], 3.0) == list(range(20, 33))


def test_missing_slots_are_waited_for_and_not_closed_up():
    playout = Playout(FPS)
    playout.put([(n, n) for n in range(9)], 0.0)
    playout.put([(n, n) for n in range(21, 33)], 0.5)
    for n in range(9):
        playout.take(0.1 + n / FPS + 1e-6)
    assert playout.take(0.1 + 20 / FPS) is None
    assert playout.take(0.1 + 21 / FPS + 1e-6)[:2] == (21, 21)


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_played_twice_out_of_order_or_unaccounted_whatever_comes(seed):
    rng = random.Random(seed)
    playout = Playout(FPS, capacity=36)
    put, gone, played, now, slot = 0, 0, [], 0.0, 0
    for _ in range(2000):
        now += rng.expovariate(20)
        if rng.random() < 0.06:
            slot += rng.choice([0, 0, 0, 12, 40])
            gone += len(playout.put([(slot + n, slot + n) for n in range(12)], now))
            put, slot = put + 12, slot + 12
        if (taken := playout.take(now)) is not None:
            played.append(taken[:2])
            gone += len(taken[2])
    outputs, frames = zip(*played, strict=True)
    assert list(outputs) == sorted(set(outputs))
    assert list(frames) == sorted(set(frames))
    assert put == len(played) + gone + playout.waiting
    assert gone == playout.late + playout.caught_up


def test_a_delay_longer_than_the_queue_does_not_stop_the_playout():
    """Chunks that came seconds late grew the delay past the queue; then each put dropped what was not yet due."""
    playout, left = Playout(16.0, capacity=48), []
    lateness = {2: 4.0, 3: 4.0}
    now = 0.0
    for chunk in range(40):
        until = max(now, 0.75 * (chunk + 1) + lateness.get(chunk, 0.05))
        while now < until:
            now += 1 / 64
            if taken := playout.take(now):
                left.append(taken[0])
        playout.put([(12 * chunk + i, i) for i in range(12)], now)
    assert playout.played > 0.8 * 40 * 12
    assert left == sorted(set(left))


@pytest.mark.parametrize("pause", [0.8, 1.5, 1.9])
def test_a_pause_of_the_source_costs_no_latency_beyond_the_frames_that_stood_in_for_it(pause):
    """It cost as much latency as it was long, and ten seconds to win that back."""
    playout, waiting, arrival = Playout(FPS), [], {}
    paused = range(30, 30 + round(pause * FPS))
    for k in range(20):
        slots = range(12 * k, 12 * k + 12)
        came = [paused.stop / FPS if slot in paused else slot / FPS for slot in slots]
        arrival |= dict(zip(slots, came, strict=True))
        waiting.append((came[-1] + 0.3, slots))
    latency, now = {}, 0.0
    while now < 16:
        while waiting and waiting[0][0] <= now:
            _, slots = waiting.pop(0)
            playout.put([(n, n) for n in slots], now, standing=[n for n in slots if n in paused])
        while (taken := playout.take(now)) is not None:
            latency[taken[1]] = now - arrival[taken[1]]
        now += 1 / 64
    shown = [slot for slot in latency if slot not in paused]
    assert shown == [n for n in range(len(shown) + len(paused)) if n not in paused], "every frame that came is shown"
    before = max(latency[slot] for slot in range(24))
    after = max(latency[slot] for slot in shown if slot >= paused.stop + 12)
    assert after <= before + 2 / FPS
    assert playout.caught_up <= len(paused)


def test_what_a_late_device_cost_is_not_won_back_from_a_pause():
    arrivals = steady(8)
    arrivals[5] += 0.4
    playout, waiting, played, now = Playout(FPS, window=100), list(enumerate(arrivals)), [], 0.0
    while now < 9:
        while waiting and waiting[0][1] <= now:
            k, _ = waiting.pop(0)
            playout.put([(12 * k + n, 12 * k + n) for n in range(12)], now, range(84, 90) if k == 7 else ())
        while (taken := playout.take(now)) is not None:
            played.append(taken[1])
        now += 1 / 64
    assert playout.underruns == 1 and played == list(range(96))
