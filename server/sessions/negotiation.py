"""Answers an offer on a peer connection within the time that the settings allow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from aiortc import MediaStreamTrack

from server.sessions.refusals import Refusal
from server.settings import Settings
from server.webrtc.answer import AnswerOptions
from server.webrtc.config import NoMediaPort, RtcConfig
from server.webrtc.ice_servers import login
from server.webrtc.offer import Offer
from server.webrtc.peer import PeerConnection


async def negotiate(
    pc: PeerConnection, offer: Offer, settings: Settings, tracks: Iterable[MediaStreamTrack] = ()
) -> str:
    """The answer to an offer, which sends `tracks`. Raises Refusal, or OfferRefused from the WebRTC stack."""
    options = AnswerOptions(public_address=settings.public_ip)
    try:
        async with asyncio.timeout(settings.offer_timeout):
            return await pc.answer(offer, options, tracks)
    except TimeoutError as error:
        message = f"the offer took longer than {settings.offer_timeout:g} s to answer"
        raise Refusal(422, "unsupported_offer", message) from error
    except NoMediaPort as error:
        raise Refusal(503, "no_port", str(error), retry_after=5) from error


def rtc_config(settings: Settings, fps: float) -> RtcConfig:
    username, credential = login(settings, time.time())
    return RtcConfig(
        bind=settings.bind,
        udp_ports=settings.udp_ports,
        ice_urls=settings.ice_servers,
        ice_username=username,
        ice_credential=credential,
        ice_relay=settings.ice_relay,
        fps=fps,
        max_pixels=settings.max_input_pixels,
    )
