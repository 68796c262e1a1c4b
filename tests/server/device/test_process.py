import asyncio
import os
import pickle
import sys
from multiprocessing.connection import Connection
from socket import AF_UNIX, SOCK_STREAM, socketpair

import pytest

from server.device.messages import Close, DeviceOptions, Done, Ping, Unusable
from server.device.process import DeviceLost, DeviceProcess

CHILD = """
import os, sys, time
from multiprocessing.connection import Connection
from socket import AF_UNIX, SOCK_STREAM, fromfd, recv_fds
connection = Connection(int(sys.argv[1]))
done = bytes.fromhex(sys.argv[2])
try:
    while True:
        request = connection.recv_bytes()
        if b"die" in request: os._exit(3)
        if b"hang" in request: time.sleep(60)
        if b"descriptor" in request:
            with fromfd(connection.fileno(), AF_UNIX, SOCK_STREAM) as socket:
                _, (fd,), _, _ = recv_fds(socket, 1, 1)
            connection.send(os.pread(fd, 5, 0).decode())
            continue
        connection.send_bytes(done)
except EOFError:
    pass
"""
"""A device process that imports nothing of ours, and so is there at once."""


@pytest.fixture
async def device():
    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
    arguments = (str(theirs.fileno()), pickle.dumps(Done()).hex())
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", CHILD, *arguments, pass_fds=[theirs.fileno()]
    )
    theirs.close()
    lost = asyncio.Event()
    device = DeviceProcess(child, Connection(ours.detach()), lost.set)
    device.heard = lost
    yield device
    await device.end()
    assert child.returncode is not None


async def test_it_answers_one_request_after_the_other(device):
    for _ in range(3):
        assert await device.request(Ping(), 30) == Done()


async def test_a_descriptor_follows_its_request(device, tmp_path):
    (tmp_path / "f").write_text("hello")
    with (tmp_path / "f").open() as file:
        reply = await device.request(Close("descriptor"), 30, file.fileno())
    assert reply == "hello"
    assert await device.request(Ping(), 30) == Done()


async def test_a_process_that_dies_is_lost_at_once_in_the_middle_of_a_request(device):
    with pytest.raises(DeviceLost, match="ended"):
        await device.request(Close("die"), 30)
    assert device.lost
    assert device.heard.is_set()
    with pytest.raises(DeviceLost):
        await device.request(Ping(), 30)


async def test_a_process_that_dies_while_idle_is_noticed(device):
    await device.request(Ping(), 30)
    os.kill(device.pid, 9)
    async with asyncio.timeout(5):
        await device.heard.wait()
    assert device.lost


async def test_a_process_that_hangs_is_lost_when_patience_ends(device):
    await device.request(Ping(), 30)
    with pytest.raises(DeviceLost, match=r"0\.2 s"):
        await device.request(Close("hang"), 0.2)


async def test_a_device_that_cannot_start_says_why_and_ends():
    device = await DeviceProcess.start(DeviceOptions(model="huge"), lambda: None)
    reply = await device.receive(60)
    assert isinstance(reply, Unusable)
    assert "'huge'" in reply.reason
    await device.end()


async def test_a_process_whose_server_is_gone_ends_by_itself():
    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server.device", str(theirs.fileno()), pass_fds=[theirs.fileno()]
    )
    theirs.close()
    Connection(ours.detach()).close()
    async with asyncio.timeout(60):
        await child.wait()


async def test_a_process_that_takes_no_options_is_ended(monkeypatch):
    """Nobody held it, so nobody ended it, and its pipe stayed with the event loop."""
    started = []

    def refuse(device, message):
        started.append(device)
        raise DeviceLost("it ended")

    monkeypatch.setattr(DeviceProcess, "_send", refuse)
    with pytest.raises(DeviceLost):
        await DeviceProcess.start(DeviceOptions(), lambda: None)
    (device,) = started
    assert device.lost and device._process.returncode is not None
