import asyncio
import json
from fractions import Fraction

import numpy as np
import pytest
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame
from hypothesis import given
from hypothesis import strategies as st

from core.contract import SolverConfig
from core.operators.averages import TemporalAverage
from core.operators.blur import GaussianBlur
from core.operators.super_resolution import SuperResolution
from server.device.messages import Stepped
from server.device.work import Plan, RestoredChunk
from server.sessions.config import Deadlines, SessionConfig, SessionState, fit_size
from server.sessions.outlet import CHANNEL_BYTES
from server.sessions.session import Session, clock
from server.settings import read_settings
from server.webrtc.config import Arrival as Reception

FPS = 16


class Peer:
    """Stands for a peer connection."""

    def __init__(self):
        self.closed = False
        self.fault = None

    async def close(self):
        self.closed = True

    def counters(self):
        return {}


class Host:
    """Stands for the server around a session: keeps its jobs, or has no device for them."""

    def __init__(self):
        self.jobs, self.ended, self.serves = [], [], True

    def queue(self, session, job):
        if self.serves:
            self.jobs.append(job)
        else:
            session.start_over([job])

    def sized(self, session):
        pass

    def end(self, session_id, reason, code):
        self.ended.append(reason)


class Channel:
    label, readyState, bufferedAmount = "report", "open", 0

    def __init__(self):
        self.sent = []

    def send(self, text):
        self.sent.append(json.loads(text))


class Source(MediaStreamTrack):
    kind = "video"

    def __init__(self):
        super().__init__()
        self.frames = asyncio.Queue()

    async def recv(self):
        frame = await self.frames.get()
        if frame is None:
            raise MediaStreamError
        return frame

    def send(self, *numbers, width=64, height=64, lost=False):
        """Frames of the grey level and at the time of their numbers; `lost` says that the first came after a loss."""
        for number in numbers:
            frame = VideoFrame.from_ndarray(np.full((height, width, 3), number % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            frame.opaque = Reception(asyncio.get_running_loop().time(), lost and number == numbers[0])
            self.frames.put_nowait(frame)

    def paint(self, numbers, width, height):
        """Dark frames of any size with a bright rectangle from a quarter to three quarters each way."""
        for number in numbers:
            pixels = np.full((height, width, 3), 30, np.uint8)
            pixels[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 220
            frame = VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            self.frames.put_nowait(frame)

    def at(self, times):
        """Grey frames at any times, in seconds."""
        for time in times:
            frame = VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time * 90000), Fraction(1, 90000)
            self.frames.put_nowait(frame)


def box(frame):
    """First and one beyond the last row and column of what is bright."""
    bright = frame.mean(2) > 125
    edges = [np.flatnonzero(bright.any(axis)) for axis in (1, 0)]
    return np.array([(found[0], found[-1] + 1) for found in edges])


@pytest.fixture
async def make():
    sessions = []

    def make(**config):
        config = {"mode": "simulate", "size": "64x64", "operator": SuperResolution(), **config}
        host, source, channel = Host(), Source(), Channel()
        session = Session("s", SessionConfig(**config), read_settings(), Peer(), host)
        session.channel.attach(channel)
        session.start(source)
        sessions.append(session)
        return session, host, source, channel

    yield make
    for session in sessions:
        await session.close("the test is over")
        assert session.pc.closed


async def until(condition, seconds=10):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def restored(job, panels=1, rung="full"):
    count, (height, width, _) = len(job.chunk.frames), job.chunk.frames[0].shape
    pixels = np.concatenate([np.stack(job.chunk.frames)] * panels, axis=2)
    now = asyncio.get_running_loop().time()
    stepped = Stepped((count, height, width * panels, 3), job.opening, 0.25, 30.0, 28.0, {"total": 5.0}, flicker=0.9)
    return RestoredChunk(stepped, pixels, Plan(rung, job.work.solver, job.work.gap, job.deadline), now, now)


def levels(job):
    """The numbers of a job's frames, which `Source` made their grey level."""
    return [round(float(frame.mean())) for frame in job.chunk.frames]


async def test_frames_become_chunks_of_nine_and_then_twelve_with_their_slots(make):
    _, host, source, _ = make()
    source.send(*range(33))
    await until(lambda: len(host.jobs) == 3)
    assert [len(job.chunk.frames) for job in host.jobs] == [9, 12, 12]
    assert [job.opening for job in host.jobs] == [True, False, False]
    assert [slot for job in host.jobs for slot in job.work.slots] == list(range(33))
    assert host.jobs[1].work.timestamps[0] == pytest.approx(9 / FPS)
    assert np.allclose(levels(host.jobs[2]), range(21, 33), atol=1)


async def test_restored_frames_leave_in_order_and_the_report_comes_with_the_first(make):
    session, host, source, channel = make()
    source.send(*range(9))
    await until(lambda: host.jobs)
    player = session.outlet.broadcast.join()
    session.deliver(host.jobs[0], restored(host.jobs[0]))
    frames = []
    while not frames or frames[-1].pts < 8 * 90000 / FPS:  # on a busy machine some come too late
        frames.append(await player.recv())
    slots = [round(frame.pts * FPS / 90000) for frame in frames]
    assert slots == sorted(set(slots))
    assert [frame.to_ndarray(format="rgb24").mean() for frame in frames] == pytest.approx(slots, abs=3)
    [report] = [message for message in channel.sent if "chunk" in message]
    assert (report["chunk"], report["rung"], report["guided"], report["residual"]) == (0, "full", True, 0.25)
    assert (report["psnr"], report["psnr_x_init"], report["flicker"]) == (30.0, 28.0, 0.9)
    assert report["latency_ms"] > 0
    assert session.figures.frames_left + session.figures.dropped["late"] == 9


async def test_incoming_frames_are_scaled_to_what_the_operator_measures(make):
    _, host, source, _ = make(mode="incoming", size="128x96")
    source.send(*range(9), width=100, height=60)
    await until(lambda: host.jobs)
    assert host.jobs[0].chunk.frames[0].shape == (24, 32, 3)


async def test_a_change_applies_from_the_chunk_that_it_names_and_not_within_one(make):
    session, host, source, _ = make()
    source.send(*range(12))
    await until(lambda: host.jobs and session._intake.pending == 3)
    number = session.change(session.wanted.model_copy(update={"operator": GaussianBlur(sigma=2.0)}))
    assert number == 2
    source.send(*range(12, 33))
    await until(lambda: len(host.jobs) == 3)
    assert [job.work.operator.kind for job in host.jobs] == ["super_resolution"] * 2 + ["gaussian_blur"]
    assert session.change(session.wanted.model_copy(update={"solver": SolverConfig(num_steps=1)})) == 3


async def test_an_interruption_within_a_chunk_starts_the_chunk_again(make):
    session, host, source, _ = make(operator=TemporalAverage())
    source.send(*range(12))
    await until(lambda: host.jobs and session._intake.pending == 3)
    source.send(*range(100, 112))
    await until(lambda: len(host.jobs) == 2)
    assert np.allclose(levels(host.jobs[1]), range(100, 112), atol=1)
    assert (host.jobs[1].chunk.index, len(host.jobs[1].chunk.frames)) == (1, 12)
    assert session.figures.dropped["gap"] == 3
    assert host.jobs[1].work.gap


async def test_frames_that_the_way_lost_are_told_to_the_operator_and_those_a_slow_camera_left_out_are_not(make):
    session, host, source, channel = make()
    source.send(*range(9), 9, 10, 11)
    source.send(14, 15, lost=True)
    source.send(18, 19, 20)
    await until(lambda: len(host.jobs) == 2)
    work = host.jobs[1].work
    assert work.slots == tuple(range(9, 21))
    assert (work.lost, work.masked) == ((3, 4), (3, 4))
    assert np.allclose(levels(host.jobs[1]), [9, 10, 11, 11, 11, 14, 15, 15, 15, 18, 19, 20], atol=1)
    frames = session.report()["frames"]
    assert (frames["lost"], frames["repeated"], frames["in"]) == (2, 2, 17)
    for job in host.jobs:
        session.deliver(job, restored(job))
    session.outlet.broadcast.join()
    await until(lambda: len([m for m in channel.sent if "chunk" in m]) == 2)
    assert [message["lost"] for message in channel.sent if "chunk" in message] == [0, 2]


async def test_a_chunk_that_lost_more_than_half_stands_still_and_what_follows_is_a_gap(make):
    _, host, source, _ = make()
    source.send(*range(12))
    source.send(19, lost=True)
    source.send(*range(20, 33))
    await until(lambda: len(host.jobs) == 3)
    assert host.jobs[1].work.lost == tuple(range(3, 10))
    assert host.jobs[1].work.masked == ()
    assert [job.work.gap for job in host.jobs] == [False, False, True]


async def test_half_of_a_chunk_may_be_lost_and_is_masked(make):
    _, host, source, _ = make()
    source.send(*range(12))
    source.send(18, lost=True)
    source.send(19, 20)
    await until(lambda: len(host.jobs) == 2)
    assert host.jobs[1].work.masked == tuple(range(3, 9))


async def test_a_stream_never_opens_with_nothing_but_lost_frames(make):
    """An opening chunk that lost every frame is refused by the operator, and would end its session."""
    session, host, source, _ = make()
    source.send(*range(9))
    await until(lambda: host.jobs)
    session.start_over([host.jobs[0]])
    source.send(20, lost=True)
    await until(lambda: len(host.jobs) == 2)
    assert host.jobs[1].opening
    assert (len(host.jobs[1].work.lost), host.jobs[1].work.masked) == (9, ())


async def test_frames_pass_at_the_restored_size_while_no_device_serves(make):
    session, host, source, channel = make(mode="incoming", panels=["degraded", "restored"])
    host.serves = False
    player = session.outlet.broadcast.join()
    source.send(*range(9))
    frame = await player.recv()
    assert (frame.width, frame.height) == (128, 64)
    assert channel.sent[-1]["rung"] == "passthrough"
    assert channel.sent[-1]["residual"] is None


async def test_after_the_device_was_lost_the_next_chunk_opens_a_stream(make):
    session, host, source, _ = make()
    source.send(*range(24))
    await until(lambda: len(host.jobs) == 2 and session._intake.pending == 3)
    session.start_over([host.jobs[1]])
    source.send(*range(24, 33))
    await until(lambda: len(host.jobs) == 3)
    again = host.jobs[2]
    assert (again.opening, len(again.chunk.frames), again.work.number) == (True, 9, 2)
    assert again.work.slots == tuple(range(24, 33))


async def test_a_slow_data_channel_costs_reports_and_not_memory(make):
    session, _, _, channel = make()
    channel.bufferedAmount = CHANNEL_BYTES + 1
    session.channel.send({"chunk": 1})
    assert channel.sent == []
    assert session.figures.reports_dropped == 1


async def test_the_end_of_the_video_and_of_the_connection_end_the_session(make):
    session, host, source, _ = make()
    source.frames.put_nowait(None)
    await until(lambda: host.ended == ["the client ended its video"])
    session.on_connection(session.pc, "failed")
    assert host.ended[-1] == "the peer connection is failed"


def dial_anew(session):
    """Another connection takes the place of the one that was lost; its timestamps begin anew."""
    source, lost = Source(), session.pc
    session.start(source)
    session.resume(Peer())
    return source, lost


async def test_a_session_that_ends_as_it_was_resumed_still_closes_the_connection_before(make):
    """It was cancelled on the way, and kept its sockets."""
    session, _, source, _ = make()
    source.send(0)
    await until(lambda: session.figures.frames_in == 1)
    lost = session.pc

    async def close_slowly():
        await asyncio.sleep(0.05)
        lost.closed = True

    lost.close = close_slowly
    session.start(Source())
    session.resume(Peer())
    await asyncio.sleep(0)
    await session.close("the client ended it")
    assert lost.closed and session.pc.closed


async def test_a_resumed_session_masks_what_it_missed(make):
    session, host, source, _ = make()
    source.send(*range(12))
    await until(lambda: session._intake.pending == 3)
    session._intake._last_source = (session._intake._last_source[0], clock() - 4 / FPS)
    source, lost = dial_anew(session)
    source.send(*range(500, 515))
    await until(lambda: len(host.jobs) == 2)
    assert lost.closed and session.report()["resumed"] == 1
    work = host.jobs[1].work
    assert work.slots == tuple(range(9, 21))
    assert work.masked == tuple(range(3, 3 + len(work.masked))) and 2 <= len(work.masked) <= 4


# --- changes while it runs --------------------------------------------------------------------------


async def test_a_picture_that_changes_its_size_stays_whole_and_the_stream_goes_on(make):
    """A browser short of bandwidth sends smaller pictures: the same scene in fewer pixels."""
    session, host, source, _ = make(mode="incoming", size="128x96", operator=GaussianBlur())
    source.paint(range(12), 128, 96)
    source.paint(range(12, 24), 64, 48)
    source.paint(range(24, 33), 96, 72)
    await until(lambda: len(host.jobs) == 3)
    assert {frame.shape for job in host.jobs for frame in job.chunk.frames} == {(96, 128, 3)}
    assert [slot for job in host.jobs for slot in job.work.slots] == list(range(33))
    assert session.report()["size"] == "128x96"
    for job in host.jobs:
        for frame in job.chunk.frames:
            assert np.allclose(box(frame), [[24, 72], [32, 96]], atol=1)
    assert not any(job.work.lost or job.work.gap for job in host.jobs)


async def test_a_phone_that_is_turned_shows_the_middle_of_its_picture_unstretched(make):
    session, host, source, _ = make(mode="incoming", operator=GaussianBlur(), size=None)
    source.paint(range(9), 128, 96)
    source.paint(range(9, 21), 96, 128)
    await until(lambda: len(host.jobs) == 2)
    assert session.report()["size"] == "128x96"
    for frame in host.jobs[1].chunk.frames:
        assert frame.shape == (96, 128, 3)
        # 96x128 covers 128x96 at 128x171: of its rectangle, 64 wide and 85 high, all is within the middle 96 lines
        assert np.allclose(box(frame), [[5, 91], [32, 96]], atol=2)


@pytest.mark.parametrize("rates", [(16, 8, 16), (8, 30), (30, 5, 60)], ids=str)
async def test_a_source_that_changes_its_rate_fills_every_slot_once(make, rates):
    session, host, source, _ = make()
    time = 0.0
    for rate in rates:
        source.at([time + n / rate for n in range(int(0.6 * rate))])
        time += int(0.6 * rate) / rate
    source.at([time])
    expected = round(time * FPS) + 1
    await until(lambda: sum(len(job.chunk.frames) for job in host.jobs) + session._intake.pending == expected)
    slots = [slot for job in host.jobs for slot in job.work.slots]
    assert slots == list(range(len(slots)))
    assert session.figures.frames_lost == 0 and session.figures.dropped["gap"] == 0


async def test_a_paused_source_goes_on_where_time_is_and_its_pause_is_a_gap(make):
    """A muted track or a sleeping tab: no frame for seconds, then frames whose timestamps went on."""
    session, host, source, _ = make(operator=TemporalAverage())
    source.send(*range(12))
    await until(lambda: session._intake.pending == 3)
    session._intake._sampler._seen = (session._intake._sampler._seen[0], clock() - 4)
    session._intake._sampler._arrival -= 4
    source.send(*range(76, 88))
    await until(lambda: len(host.jobs) == 2)
    assert host.jobs[1].work.slots == tuple(range(76, 88))
    assert session.figures.dropped["gap"] == 3
    assert (session.figures.frames_repeated, session.figures.frames_lost) == (0, 0)
    assert host.jobs[1].work.gap


async def test_frames_that_stand_in_for_a_pause_are_told_to_the_playout_and_those_of_a_slow_source_are_not(make):
    _, host, source, _ = make()
    source.send(*range(9), 9, 12, 15, 21)
    await until(lambda: len(host.jobs) == 2)
    assert host.jobs[1].work.slots == tuple(range(9, 21))
    assert host.jobs[1].work.standing == tuple(range(16, 21))


async def test_a_gap_after_chunks_that_still_wait_for_the_device_is_told_to_the_chunk_behind_it(make):
    """It was told to whichever chunk came to the device next, or to none when that was the opening one."""
    session, host, source, _ = make(operator=TemporalAverage())
    source.send(*range(22))
    await until(lambda: len(host.jobs) == 2 and session._intake.pending == 1)
    source.send(*range(100, 112))
    await until(lambda: len(host.jobs) == 3)
    assert [job.work.gap for job in host.jobs] == [False, False, True]


async def test_a_source_whose_clock_stood_still_while_it_was_muted_goes_on_in_time(make):
    """Some senders stop their clock with their picture: the next frame's timestamp follows the last one's."""
    session, host, source, _ = make()
    source.send(*range(12))
    await until(lambda: session._intake.pending == 3)
    shift = 6.0
    session._intake._sampler._seen = (session._intake._sampler._seen[0], clock() - shift)
    session._intake._sampler._arrival -= shift
    source.send(*range(12, 24))
    await until(lambda: len(host.jobs) == 2)
    slots = host.jobs[1].work.slots
    assert slots == tuple(range(slots[0], slots[0] + 12))


async def test_a_closed_session_says_why_and_leaves_no_task(make):
    before = asyncio.all_tasks()
    session, _, source, channel = make()
    source.send(*range(12))
    await asyncio.sleep(0.05)
    await session.close("enough")
    assert channel.sent[-1] == {"event": "closing", "reason": "enough"}
    assert session.state is SessionState.CLOSED
    assert asyncio.all_tasks() == before
    with pytest.raises(MediaStreamError):
        await session.outlet.track.recv()


async def test_tasks_that_are_done_are_forgotten(make):
    """One dead task for each resumed connection stayed until the session ended."""
    session, _, source, _ = make()
    source.send(0)
    await until(lambda: session.figures.frames_in == 1)
    running = len(session._tasks)
    for _ in range(5):
        source.frames.put_nowait(None)
        source, _ = dial_anew(session)
        source.send(0)
    await until(lambda: session.figures.frames_in == 6)
    await until(lambda: len(session._tasks) == running)


async def test_what_fails_as_a_session_closes_is_logged(make, caplog):
    session, _, _, _ = make()

    async def fail_at_the_end():
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError("the disk is full")

    session._spawn(fail_at_the_end())
    await asyncio.sleep(0)
    await session.close("enough")
    assert "the disk is full" in caplog.text


async def test_a_fault_in_a_session_ends_that_session_and_is_logged(make, caplog):
    session, host, source, _ = make()
    session._convert = None
    source.send(0)
    await until(lambda: host.ended)
    assert "internal error" in host.ended[0]
    assert "session s failed" in caplog.text


DEADLINES = Deadlines(connect=15, first_frame=5, idle=10, most=0)


@pytest.mark.parametrize(
    "now, connected, last_frame, word",
    [
        (14, None, None, None),
        (16, None, None, "connection"),
        (16, 12, None, None),
        (18, 12, None, "no video within 5 s"),
        (100, 12, 95, None),
        (106, 12, 95, "no video for 10 s"),
    ],
)
def test_a_session_waits_so_long_and_no_longer(now, connected, last_frame, word):
    reason = DEADLINES.expired(now, 0, 0, connected, last_frame or 0, last_frame)
    assert reason is None if word is None else word in reason


def test_a_session_may_be_given_a_longest_time():
    deadlines = Deadlines(15, 5, 10, most=60)
    assert "60 s" in deadlines.expired(61, 0, 0, 1, 61, 61)
    assert "60 s" in deadlines.expired(61, 0, 59, None, 58, None), "who dialled anew began a new life"


@given(st.lists(st.floats(0.01, 14.9), min_size=1, max_size=40))
def test_who_dials_anew_again_and_again_and_sends_nothing_holds_no_place(pauses):
    """A POST each 3.6 s with `resume` kept a place for ever, without one packet of media."""
    now = 0.0
    for pause in pauses:
        dialled, now = now, now + pause
        if DEADLINES.expired(now, 0, dialled, None, 0.0, None):
            break
    assert now <= 30 + 14.9
    assert DEADLINES.expired(30.1, 0, 30.0, None, 0.0, None)
    assert DEADLINES.expired(30.1, 0, 30.0, None, 20.0, None) is None, "it was seen a moment ago"


@pytest.mark.parametrize(
    "operator, mode, source, restored",
    [
        (SuperResolution(), "incoming", (208, 120), (832, 480)),
        (SuperResolution(), "incoming", (640, 480), (720, 544)),
        (SuperResolution(), "simulate", (640, 480), (640, 480)),
        (GaussianBlur(sigma=3.0), "incoming", (641, 361), (640, 352)),
        (GaussianBlur(sigma=3.0), "incoming", (1920, 1080), (832, 464)),
        (SuperResolution(), "incoming", (10, 10), (64, 64)),
        (SuperResolution(), "simulate", (16383, 3), (6240, 64)),
        (SuperResolution(), "simulate", (3, 16383), (64, 6240)),
        (SuperResolution(), "incoming", (160, 40), (640, 160)),
    ],
)
def test_the_default_size_fits_the_first_frame_within_the_limits(operator, mode, source, restored):
    config = SessionConfig(operator=operator, mode=mode)
    width, height = fit_size(config, *source, read_settings())
    assert (width % 16, height % 16) == (0, 0)
    assert width * height <= 832 * 480
    assert (width, height) == restored


async def test_a_session_that_ends_for_its_frames_says_what_is_wrong_with_them(make):
    """Frames that were too large, or had B-frames, ended as "no video" or "the client ended its video"."""
    session, host, source, _ = make()
    session.pc.fault = "frames of 3840x2160 are not decoded"
    source.frames.put_nowait(None)
    await until(lambda: host.ended)
    assert host.ended == ["frames of 3840x2160 are not decoded"]
