import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, VideoStreamTrack


@pytest.fixture
async def offer():
    """A body that opens a session."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTrack(VideoStreamTrack())
    await pc.setLocalDescription(await pc.createOffer())
    yield {"sdp": pc.localDescription.sdp, "type": "offer", "mode": "simulate", "size": "128x96"}
    await pc.close()
