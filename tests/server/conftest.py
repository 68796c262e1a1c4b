from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession
from aiortc import RTCConfiguration, RTCPeerConnection, VideoStreamTrack

from server.api.app import create_app, listening
from server.api.keys import SESSIONS
from server.settings import read_settings
from server.simulation.process import SimulatedProcess
from server.simulation.simulation import SimulatedDevice


@asynccontextmanager
async def serve(**settings):
    """A server whose device gives frames back as they came; its application, an HTTP client and its address."""
    fixed = {"port": 0, "admission": "places", "bind": ("127.0.0.1",), "solver": {"num_steps": 1}}
    app = create_app(read_settings(**fixed, **settings))

    async def start_device():
        return SimulatedProcess(SimulatedDevice(seconds=0.02))

    app[SESSIONS].worker.start_device = start_device
    async with listening(app[SESSIONS].settings, app) as url, ClientSession() as http:
        await app[SESSIONS].worker.settled()
        yield app, http, url


@pytest.fixture
async def offer():
    """A body that opens a session."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTrack(VideoStreamTrack())
    await pc.setLocalDescription(await pc.createOffer())
    yield {"sdp": pc.localDescription.sdp, "type": "offer", "mode": "simulate", "size": "128x96"}
    await pc.close()
