"""The device process: one engine, asked one thing at a time over a pipe. Knows no session and no network.

Started as `python -m server.device FD`; it ends when the other end of the pipe closes, which is also when the
server dies. A fault at one stream's request costs that stream; one of the device ends the process, as then it cannot
be trusted.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from socket import AF_UNIX, SOCK_STREAM, fromfd, recv_fds, socket

import torch

from core.contract import Panel, SolverConfig
from core.engine import Engine
from core.models.load import load, weight_files
from core.models.table import solver_defaults
from core.operators.table import operator_of
from server import logs
from server.certificates.hashes import file_record
from server.device.frame_memory import FrameMemory
from server.device.messages import (
    Close,
    DeviceOptions,
    Done,
    Loaded,
    Open,
    Ping,
    Refused,
    Reply,
    Request,
    Short,
    Step,
    Stepped,
    Unusable,
)
from server.device.shortage import is_shortage
from server.device.warm_up import warmed_up

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
NICENESS = 5
"""on a CPU the server's own work, which keeps frames on time, goes before their restoration"""


class StageTimer:
    """Milliseconds of each stage of one chunk, in the sense of core.solver.Stage."""

    def __init__(self, synchronize: Callable[[], None]):
        self.ms: dict[str, float] = {}
        self._synchronize = synchronize

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._synchronize()
            self.ms[name] = self.ms.get(name, 0.0) + 1000 * (time.perf_counter() - start)


@dataclass
class Device:
    """Answers requests with an engine and the frame memory of each open stream."""

    engine: Engine
    descriptor: Callable[[], int]
    """receives the file descriptor that follows an Open"""
    _streams: dict[str, tuple[FrameMemory, tuple[Panel, ...]]] = field(default_factory=dict)

    def answer(self, request: Request) -> Reply:
        """Does what is asked. Raises whatever tells that the device itself is not sound."""
        match request:
            case Open() | Step():
                return self._try(request)
            case Close():
                return self._close(request.stream_id)
            case Ping():
                self._examine()
                return Done()

    def _try(self, request: Open | Step) -> Reply:
        try:
            return self._open(request) if isinstance(request, Open) else self._step(request)
        except Exception as error:
            self._close(request.stream_id)
            self._examine()
            if is_shortage(error) or isinstance(error, torch.OutOfMemoryError):
                return Short(str(error))
            logger.exception("a request failed, which costs its stream alone")
            return Refused(f"an internal error: {error!r}")

    def _examine(self) -> None:
        """Raises whatever is wrong with the device, or with what the streams share on it."""
        self._synchronize()
        self.engine.check_integrity()

    def _open(self, request: Open) -> Reply:
        spec, memory = request.spec, FrameMemory(self.descriptor(), request.input_bytes, request.output_bytes)
        self._close(request.stream_id)
        try:
            operator = operator_of(request.operator)
            size = spec.height, spec.width
            self.engine.open(request.stream_id, operator, spec.mode, *size, spec.seed, spec.chunks)
        except ValueError as error:
            memory.close()
            return Refused(str(error))
        except torch.OutOfMemoryError:
            memory.close()
            return Refused(f"the device has no memory left for another stream of {spec.width}x{spec.height}")
        self._streams[request.stream_id] = memory, spec.panels
        return Done()

    def _step(self, request: Step) -> Reply:
        start = time.perf_counter()
        timer = StageTimer(self._synchronize)
        try:
            memory, panels = self._streams[request.stream_id]
            with timer("transfer"):
                frames = memory.read_input(request.shape)
            result = self.engine.step(
                request.stream_id,
                frames,
                operator_of(request.operator),
                request.solver,
                request.rung,
                panels,
                timer,
                gap=request.gap,
                lost=request.lost,
            )
            with timer("transfer"):
                memory.write_output(result.panels)
        except (ValueError, FloatingPointError) as error:
            return Refused(str(error))
        except KeyError:
            return Refused(f"stream {request.stream_id} is not open on the device")
        timer.ms["total"] = 1000 * (time.perf_counter() - start)
        shape = result.panels.shape
        scores = result.residual, result.psnr, result.psnr_x_init
        return Stepped(shape, result.guided, *scores, timer.ms, result.trust, result.flicker)

    def _close(self, stream_id: str) -> Reply:
        self.engine.close(stream_id)
        memory, _ = self._streams.pop(stream_id, (None, ()))
        if memory is not None:
            memory.close()
        return Done()

    def _synchronize(self) -> None:
        """Waits for the device, so that a stage's time is its own."""
        if self.engine.model.device.type == "cuda":
            torch.cuda.synchronize(self.engine.model.device)


def serve(connection: Connection, options: DeviceOptions) -> None:
    """Loads, warms up, and answers until the other end closes."""
    os.nice(NICENESS)
    try:
        engine = start(connection, options)
    except (ValueError, FileNotFoundError) as error:
        connection.send(Unusable(str(error)))
        return
    except torch.OutOfMemoryError as error:
        if options.measured is not None:
            raise  # it served before, and will again when what the last process held is free
        connection.send(Unusable(f"the device has too little memory for {options.model}: {error}"))
        return
    with fromfd(connection.fileno(), AF_UNIX, SOCK_STREAM) as pipe:
        device = Device(engine, lambda: receive_descriptor(pipe))
        while True:
            try:
                request = connection.recv()
            except EOFError:
                return
            connection.send(device.answer(request))


def start(connection: Connection, options: DeviceOptions) -> Engine:
    """Loads and warms up, and says so."""
    model = load(options.model, options.weights, options.device, options.codec, options.model_settings)
    solver = SolverConfig.model_validate({**solver_defaults(model.name), **options.solver})
    connection.send(Loaded(model.name, str(model.device), solver, hashes(options), model.denoiser.backend))
    engine = Engine(model)
    connection.send(warmed_up(engine, solver, options))
    return engine


def hashes(options: DeviceOptions) -> dict[str, str]:
    """SHA-256 of each file of weights, where somebody wants it: large ones take seconds."""
    if not options.hash_weights:
        return {}
    files = weight_files(options.model, options.weights, options.codec, options.model_settings)
    return {path.name: file_record(path).sha256 for path in files}


def receive_descriptor(pipe: socket) -> int:
    """The descriptor that comes next. Raises OSError where this process may have no more of them."""
    _, descriptors, _, _ = recv_fds(pipe, 1, 1)
    if not descriptors:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return descriptors[0]


def end_with_parent() -> None:
    """Asks Linux to end this process with its parent, even in the middle of a chunk."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(int(sys.argv[1])) as connection:
        options: DeviceOptions = connection.recv()
        logs.set_up(options.log_level, options.log_format)
        if options.threads:
            torch.set_num_threads(options.threads)
        serve(connection, options)


if __name__ == "__main__":
    main()
