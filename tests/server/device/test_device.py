import os
import resource
import tempfile
from dataclasses import replace
from multiprocessing import Pipe
from socket import AF_UNIX, SOCK_STREAM, send_fds, socketpair

import numpy as np
import pytest
import torch

from core.contract import SolverConfig
from core.engine import Engine
from core.models.load import load
from core.operators.averages import TemporalAverage
from core.operators.blur import GaussianBlur
from core.operators.super_resolution import SuperResolution
from server.device import __main__ as device_process
from server.device.__main__ import Device, serve
from server.device.frame_memory import FrameMemory
from server.device.messages import (
    Close,
    DeviceOptions,
    Done,
    Loaded,
    Open,
    Ping,
    Ready,
    Refused,
    Short,
    Step,
    Stepped,
    StreamSpec,
    Unusable,
)
from server.device.shortage import is_shortage
from server.device.warm_up import warm_up, warmed_up

HEIGHT, WIDTH = 64, 96
SPEC = StreamSpec(HEIGHT, WIDTH, "simulate", ("original", "restored"))
SR = SuperResolution()
BYTES = 12 * HEIGHT * WIDTH * 3


@pytest.fixture(scope="module")
def engine():
    return Engine(load("tiny", weights="random", device="cpu"))


@pytest.fixture
def device(engine):
    memories = {}
    device = Device(engine, lambda: os.dup(memories["fd"]))
    yield device, memories
    for stream in ("a", "b"):
        device.answer(Close(stream))


def opened(device, memories, stream, operator=SR, spec=SPEC):
    memory = FrameMemory.create(BYTES, 2 * BYTES)
    memories["fd"] = memory.fd
    return memory, device.answer(Open(stream, spec, operator, BYTES, 2 * BYTES))


def stepped(device, memory, stream, frames, operator=SR, gap=False, lost=()):
    memory.write_input(list(frames))
    return device.answer(Step(stream, frames.shape, operator, SolverConfig(num_steps=1), "full", gap, lost))


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def test_a_chunk_goes_in_and_its_panels_come_out(device):
    device, memories = device
    memory, reply = opened(device, memories, "a")
    assert reply == Done()
    frames = pictures(9)
    reply = stepped(device, memory, "a", frames)
    assert isinstance(reply, Stepped)
    assert reply.shape == (9, HEIGHT, 2 * WIDTH, 3)
    assert reply.guided
    assert reply.psnr is not None
    assert {"x_init", "denoise", "prox", "decode", "transfer", "total"} <= reply.ms.keys()
    assert reply.ms["total"] >= max(ms for stage, ms in reply.ms.items() if stage != "total")
    assert (memory.read_output(reply.shape)[:, :, :WIDTH] == frames).all(), "the original panel is the input"
    memory.close()


def test_a_stream_that_is_opened_again_begins_anew(device):
    device, memories = device
    memory, _ = opened(device, memories, "a")
    first = stepped(device, memory, "a", pictures(9))
    memory.close()
    memory, _ = opened(device, memories, "a")
    again = stepped(device, memory, "a", pictures(9))
    assert (again.shape, again.guided, again.residual) == (first.shape, first.guided, first.residual)
    memory.close()


def test_what_is_one_streams_fault_is_refused_and_the_others_go_on(device):
    device, memories = device
    memory, _ = opened(device, memories, "a")
    other, _ = opened(device, memories, "b")
    assert isinstance(stepped(device, memory, "a", pictures(12)), Refused), "a first chunk has 9 frames"
    assert isinstance(stepped(device, memory, "nobody", pictures(9)), Refused)
    _, reply = opened(device, memories, "a", spec=StreamSpec(50, 60, "simulate"))
    assert isinstance(reply, Refused)
    assert "multiple of 16" in reply.reason
    _, reply = opened(device, memories, "a", GaussianBlur(sigma=1), StreamSpec(16, 96, "simulate"))
    assert isinstance(reply, Refused)
    assert isinstance(stepped(device, other, "b", pictures(9)), Stepped)
    assert device.answer(Ping()) == Done()


def test_a_stream_for_which_there_is_no_memory_is_refused_and_the_others_go_on(device, monkeypatch):
    """One stream too many ended the device process with all others, and did so again after every restart."""
    device, memories = device
    memory, _ = opened(device, memories, "a")

    def new_cache(self, height, width):
        raise torch.OutOfMemoryError("tried to allocate 2.41 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(type(device.engine.solver.denoiser), "new_cache", new_cache)
        assert opened(device, memories, "b")[1] == Refused("the device has no memory left for another stream of 96x64")
    assert isinstance(stepped(device, memory, "a", pictures(9)), Stepped)
    assert opened(device, memories, "b")[1] == Done()


@pytest.mark.parametrize(
    "error, kind",
    [
        (RuntimeError("no such kernel"), Refused),
        (ZeroDivisionError("float division by zero"), Refused),
        (torch.OutOfMemoryError("tried to allocate 2.41 GiB"), Short),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Short),
    ],
)
def test_a_fault_at_one_streams_chunk_costs_that_stream_alone(device, monkeypatch, error, kind):
    """It ended the device process, and with it the stream of everybody else."""
    device, memories = device
    memory, _ = opened(device, memories, "a")
    other, _ = opened(device, memories, "b")
    assert isinstance(stepped(device, other, "b", pictures(9)), Stepped)

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(device.engine.solver, "restore", fail)
        reply = stepped(device, memory, "a", pictures(9))
    assert isinstance(reply, kind) and str(error) in reply.reason
    assert isinstance(stepped(device, other, "b", pictures(12)), Stepped)
    assert device.engine._streams.keys() == device._streams.keys() == {"b"}
    assert opened(device, memories, "a")[1] == Done()


def test_a_fault_of_the_device_itself_ends_the_process(device, monkeypatch):
    device, memories = device
    memory, _ = opened(device, memories, "a")

    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(device.engine.solver, "restore", broken)
    monkeypatch.setattr(device, "_synchronize", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        stepped(device, memory, "a", pictures(9))


def test_a_process_that_may_open_no_more_files_refuses_the_stream_and_keeps_in_step():
    """The descriptor that did not arrive was an IndexError, and the next request was read from the wrong byte."""
    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ours, theirs, tempfile.TemporaryFile() as file:
        send_fds(ours, [b"F"], [file.fileno()])
        ours.send(b"next")
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(OSError, match="Too many open files") as raised:
                device_process.receive_descriptor(theirs)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert is_shortage(raised.value)
        assert theirs.recv(4) == b"next"


def test_a_gap_grounds_a_stream_whose_operator_remembers_and_no_other(device):
    device, memories = device
    for stream, operator in (("a", TemporalAverage()), ("b", SuperResolution())):
        memory, _ = opened(device, memories, stream, operator)
        guided = [stepped(device, memory, stream, pictures(9), operator).guided]
        for gap in (False, True, False):
            guided.append(stepped(device, memory, stream, pictures(12), operator, gap).guided)
        assert guided == [True, False, operator.reach > 0, False]


def test_what_lies_in_the_place_of_a_lost_frame_is_not_looked_at(device):
    device, memories = device
    answers = []
    for level in (0, 255):
        memory, _ = opened(device, memories, "a", spec=StreamSpec(HEIGHT, WIDTH, "simulate"))
        frames = pictures(9)
        frames[[3, 4]] = level
        reply = stepped(device, memory, "a", frames, lost=(3, 4))
        answers.append((memory.read_output(reply.shape), reply.residual, reply.psnr))
        memory.close()
    (one, *figures), (other, *others) = answers
    assert (one == other).all() and figures == others


def test_warm_up_measures_a_chunk_whose_cache_is_full(engine, monkeypatch):
    """Of a long window the third chunk, which was measured, costs less than all later ones, or compiles for them."""
    rungs, step = [], engine.step
    monkeypatch.setattr(engine, "step", lambda *args: rungs.append(args[-1]) or step(*args))
    monkeypatch.setattr(type(engine.model.denoiser), "chunks_to_settle", 5)
    warm_up(engine, SolverConfig(num_steps=1), (WIDTH, HEIGHT))
    assert rungs == ["full"] * 7 + ["x_init"]


@pytest.mark.parametrize("settled", [2, 7])
def test_warm_up_measures_a_chunk_that_is_not_guided_and_one_that_is(engine, monkeypatch, settled):
    """A window of 21 is full at chunk 7, which the usual calendar guides: a cost far too high was admitted by."""
    guided, step = [], engine.step

    def spy(*args):
        guided.append((result := step(*args)).guided)
        return result

    monkeypatch.setattr(engine, "step", spy)
    monkeypatch.setattr(type(engine.model.denoiser), "chunks_to_settle", settled)
    warm_up(engine, SolverConfig(num_steps=1, reinject_every=7 if settled == 7 else 1), (WIDTH, HEIGHT))
    assert guided == [True, *[False] * settled, True, False]


def test_warm_up_measures_a_later_chunk_and_leaves_no_stream(engine):
    for _ in range(2):
        cost = warm_up(engine, SolverConfig(num_steps=1), (WIDTH, HEIGHT))
        assert 0 < cost.x_init_seconds < cost.seconds < 60 and cost.x_init_seconds < cost.guided_seconds < 60
    assert not engine._streams


def test_a_ping_finds_streams_that_are_not_sound(device):
    device, memories = device
    for stream in "ab":
        memory, _ = opened(device, memories, stream)
        stepped(device, memory, stream, pictures(9))
        memory.close()
    assert device.answer(Ping()) == Done()
    device.engine._streams["b"].state = device.engine._streams["a"].state
    with pytest.raises(AssertionError, match="share memory"):
        device.answer(Ping())


def test_a_cpu_is_measured_in_the_first_life_of_its_process_and_trusted_in_the_next(engine, monkeypatch):
    options = DeviceOptions(warm_sizes=((WIDTH, HEIGHT),))
    first = warmed_up(engine, SolverConfig(), options)
    assert first.chunk_seconds[WIDTH, HEIGHT] > 0
    monkeypatch.setattr(engine, "step", None)
    assert warmed_up(engine, SolverConfig(), replace(options, measured=first)) == first


def test_a_model_that_its_device_cannot_hold_is_named_and_tried_once(monkeypatch):
    """Each of six starts loaded it anew, and then "it was lost 6 times in a row" was all that was said of it."""

    def too_large(engine, solver, options):
        raise torch.OutOfMemoryError("tried to allocate 2.41 GiB")

    monkeypatch.setattr(os, "nice", lambda increment: 0)
    monkeypatch.setattr(device_process, "warmed_up", too_large)
    ours, theirs = Pipe()
    with ours, theirs:
        options = DeviceOptions(weights="random", device="cpu")
        serve(theirs, options)
        assert isinstance(ours.recv(), Loaded)
        assert ours.recv() == Unusable("the device has too little memory for tiny: tried to allocate 2.41 GiB")
        with pytest.raises(torch.OutOfMemoryError):  # in a later life it is another process that holds the memory
            serve(theirs, replace(options, measured=Ready({}, {}, 0, {})))
