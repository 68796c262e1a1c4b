"""Answers an offer on a peer connection within the time that the settings allow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from ipaddress import ip_address

from aioice import ice
from aiortc import MediaStreamTrack

from server.refusals import Refusal
from server.settings import Settings
from server.webrtc.answer import AnswerOptions
from server.webrtc.config import NoMediaPort, RtcConfig
from server.webrtc.ice_servers import login
from server.webrtc.offer import Offer
from server.webrtc.peer import PeerConnection
from server.webrtc.sdp_lines import SdpLimits


async def negotiate(
    pc: PeerConnection, offer: Offer, settings: Settings, tracks: Iterable[MediaStreamTrack] = ()
) -> str:
    """The answer to an offer, which sends `tracks`. Raises Refusal."""
    options = AnswerOptions(public_address=settings.public_ip)
    try:
        async with asyncio.timeout(settings.offer_timeout):
            return await pc.answer(offer, options, tracks)
    except TimeoutError as error:
        message = f"the offer took longer than {settings.offer_timeout:g} s to answer"
        raise Refusal(422, "unsupported_offer", message) from error
    except NoMediaPort as error:
        raise Refusal(503, "no_port", str(error), retry_after=5) from error


def sdp_limits(settings: Settings) -> SdpLimits:
    """What an offer may ask of this server: which of the addresses that it names are sent connectivity checks."""
    local = settings.host in ("127.0.0.1", "::1", "localhost")
    private = settings.private_peers
    return SdpLimits(allow_loopback=local, allow_private=not is_public(settings) if private is None else private)


def is_public(settings: Settings) -> bool:
    """Whether media is reached under a public address: then private ones are of the server's own network."""
    addresses = settings.bind or tuple(ice.get_host_addresses(use_ipv4=True, use_ipv6=False))
    if settings.public_ip is not None:
        addresses = (*addresses, settings.public_ip)
    return any(found.version == 4 and found.is_global for found in map(ip_address, addresses))


def rtc_config(settings: Settings, fps: float) -> RtcConfig:
    """How a session's peer connection is made.

    Addresses that are learnt from incoming checks may be loopback ones, since only this machine sends from those. They
    may be private unless `private_peers` is false: behind a container's bridge every client has the bridge's address.
    """
    learnt = {"allow_loopback": True, "allow_private": settings.private_peers is not False}
    username, credential = login(settings, time.time())
    return RtcConfig(
        bind=settings.bind,
        udp_ports=settings.udp_ports,
        ice_urls=settings.ice_servers,
        ice_username=username,
        ice_credential=credential,
        ice_relay=settings.ice_relay,
        limits=sdp_limits(settings).model_copy(update=learnt),
        fps=fps,
        max_pixels=settings.max_input_pixels,
    )
