"""Offers checked before the WebRTC stack sees them, answers completed after. Pure: text in, text out.

An offer is never filtered line by line: what is understood is parsed, and a new offer is written from it, so
that the stack reads only lines this module made. The rest is refused with a code and one sentence.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import Field

from core.config import Config

Purpose = Literal["duplex", "publish", "play"]
"""What the client wants: send and watch in one session, send only (WHIP), or watch only (WHEP)."""
Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]

DIRECTIONS: dict[Purpose, tuple[Direction, ...]] = {
    "duplex": ("sendrecv",),
    "publish": ("sendrecv", "sendonly"),
    "play": ("sendrecv", "recvonly"),
}
SUPPORTED_VIDEO = ("VP8", "H264 (baseline, packetization-mode=1)")
SUPPORTED_AUDIO = ("opus", "PCMU", "PCMA", "G722")

HEADER_EXTENSIONS = {
    "urn:ietf:params:rtp-hdrext:sdes:mid": ("audio", "video"),
    "urn:ietf:params:rtp-hdrext:ssrc-audio-level": ("audio",),
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time": ("video",),
}
H264_PARAMETERS = "level-asymmetry-allowed=1;packetization-mode=1"
FEEDBACK = ("nack", "nack pli", "ccm fir", "goog-remb")
H264_LEVELS = frozenset((10, 11, 12, 13, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52))
FINGERPRINT_BYTES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}

M_LINE = re.compile(r"m=([a-z]{1,16}) (\d{1,5})(?:/\d{1,3})? ([A-Z/]{1,32})((?: [\w.+-]{1,32}){1,128})", re.A)
TOKEN = re.compile(r"[!#$%&'*+.^_`{|}~0-9A-Za-z-]{1,16}")
ICE_CHARS = re.compile(r"[A-Za-z0-9+/]+")
CANDIDATE_KINDS = ("host", "srflx", "relay")
CANDIDATE = re.compile(
    r"([A-Za-z0-9+/-]{1,32}) ([1-9]\d{0,2}) ([A-Za-z-]{1,8}) (\d{1,10}) ([0-9A-Za-z.:%-]{1,253}) (\d{1,5})"
    r" typ (\w{1,8})(?: .{0,256})?",
    re.A,
)
RTPMAP = re.compile(r"(\d{1,3}) ([A-Za-z0-9_.-]{1,32})/(\d{1,6})(?:/(\d{1,2}))?", re.A)
EXTMAP = re.compile(r"(\d{1,3})(?:/\w{1,8})? (\S{1,128})(?: .*)?", re.A)


class OfferRefused(ValueError):
    """An offer, a fragment or an answer that cannot be used; `status` is the HTTP status that says so."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def malformed(message: str) -> OfferRefused:
    return OfferRefused(400, "bad_sdp", message)


def unusable(message: str, code: str = "unsupported_offer") -> OfferRefused:
    return OfferRefused(422, code, message)


class SdpLimits(Config):
    """What an offer may ask for. The addresses in it decide where this server sends its first packets."""

    max_bytes: int = Field(65536, ge=1024)
    """size of an offer or a fragment in bytes"""
    max_sections: int = Field(4, ge=1, le=16)
    """m-lines that are looked at before the offer is refused as too many"""
    max_candidates: int = Field(32, ge=1, le=100)
    """candidates that are kept for connectivity checks; further ones are ignored"""
    allow_loopback: bool = False
    """probe loopback addresses: right for a server that serves its own machine only"""
    allow_private: bool = True
    """probe private addresses (RFC 1918, unique local): right for a server in a local network"""


@dataclass(frozen=True)
class Candidate:
    """One remote ICE candidate whose address may be probed."""

    foundation: str
    priority: int
    address: str
    port: int
    kind: str

    def __str__(self) -> str:
        line = f"{self.foundation} 1 udp {self.priority} {self.address} {self.port} typ {self.kind}"
        return line if self.kind == "host" else f"{line} raddr 0.0.0.0 rport 9"


@dataclass(frozen=True)
class Codec:
    """One payload type of an m-line, as it is shown to the WebRTC stack."""

    payload_type: int
    name: str
    clock: int
    channels: int | None = None
    parameters: str = ""


@dataclass(frozen=True)
class Section:
    """One m-line of an offer."""

    kind: str
    mid: str
    direction: Direction
    codecs: tuple[Codec, ...] = ()
    feedback: tuple[str, ...] = ()
    """`PT TYPE` pairs that the peer understands"""
    extensions: tuple[tuple[int, str], ...] = ()
    ssrcs: tuple[int, ...] = ()
    """the media SSRC, and its retransmission SSRC when there is one"""
    sctp_port: int = 0


@dataclass(frozen=True)
class Offer:
    """An offer that can be answered. `text` is what the WebRTC stack gets to see."""

    sections: tuple[Section, ...]
    ufrag: str
    password: str
    fingerprints: tuple[tuple[str, str], ...]
    setup: Literal["active", "passive"]
    candidates: tuple[Candidate, ...]
    ignored_candidates: int = 0
    """candidates that were not kept: TCP, host names, forbidden addresses, too many"""
    trickle: bool = False
    text: str = field(default="", repr=False)

    def section(self, kind: str) -> Section | None:
        return next((section for section in self.sections if section.kind == kind), None)

    @property
    def video(self) -> Section:
        return next(section for section in self.sections if section.kind == "video")


@dataclass(frozen=True)
class Fragment:
    """Candidates that a client sends after its offer (RFC 8840)."""

    ufrag: str | None
    candidates: tuple[Candidate, ...]
    complete: bool


# --- offers ---------------------------------------------------------------------------------------


def parse_offer(text: str, limits: SdpLimits | None = None, purpose: Purpose = "duplex", sound: str = "") -> Offer:
    """The offer in `text`, reduced to what this server can answer; raises `OfferRefused`.

    `sound` names the one audio codec that is there to be played: a client without it gets its audio switched
    off. By default it is the first that the client offers.
    """
    limits = limits or SdpLimits()
    session, blocks = split_sections(text, limits)
    sections = tuple(choose_sound(parse_section(block), sound) for block in blocks)
    check_sections(sections, purpose)
    primary = check_bundle(session, blocks, sections)
    ufrag, password = ice_credentials(session, primary)
    candidates, ignored = collect_candidates(blocks, limits)
    options = attribute(primary, "ice-options") or attribute(session, "ice-options") or ""
    offer = Offer(
        sections=sections,
        ufrag=ufrag,
        password=password,
        fingerprints=fingerprints(session, primary),
        setup=setup(session, primary),
        candidates=candidates,
        ignored_candidates=ignored,
        trickle="trickle" in options.split(),
    )
    return replace(offer, text=write_offer(offer))


def split_sections(text: str, limits: SdpLimits) -> tuple[list[str], list[list[str]]]:
    """The session lines and the lines of each m-line."""
    lines = split_lines(text, limits)
    if lines[:1] != ["v=0"]:
        raise malformed("an SDP offer starts with the line v=0")
    starts = [i for i, line in enumerate(lines) if line.startswith("m=")]
    if not starts:
        raise unusable("the offer has no media: one m=video line is expected", "no_video")
    if len(starts) > limits.max_sections:
        raise unusable(f"the offer may have {limits.max_sections} m-lines, this one has {len(starts)}")
    ends = [*starts[1:], len(lines)]
    return lines[: starts[0]], [lines[a:b] for a, b in zip(starts, ends, strict=True)]


def split_lines(text: str, limits: SdpLimits) -> list[str]:
    """The lines of an offer or a fragment; those with other than ASCII characters carry nothing we read."""
    size = len(text.encode(errors="replace"))
    if size > limits.max_bytes:
        raise OfferRefused(413, "too_large", f"at most {limits.max_bytes} bytes are read, found {size}")
    lines = [line.rstrip() for line in text.strip().split("\n")]
    for number, line in enumerate(lines, 1):
        if line[1:2] != "=" or not line.isprintable():
            raise malformed(f"line {number} is not of the form x=value")
    return [line for line in lines if line.isascii()]


def attributes(lines: Iterable[str], name: str) -> list[str]:
    """The values of every `a=name:value`."""
    prefix = f"a={name}:"
    return [line[len(prefix) :].strip() for line in lines if line.startswith(prefix)]


def attribute(lines: Iterable[str], name: str) -> str | None:
    return next(iter(attributes(lines, name)), None)


def parse_section(lines: list[str]) -> Section:
    match = M_LINE.fullmatch(lines[0].rstrip())
    if match is None:
        raise malformed(f"cannot read the m-line {shorten(lines[0])}")
    kind, port, profile, formats = match[1], int(match[2]), match[3], match[4].split()
    if kind not in ("audio", "video", "application"):
        raise unusable(f"an m-line is audio, video or application, not {kind}")
    if port == 0 and "a=bundle-only" not in lines:
        raise unusable(f"the m={kind} line is switched off (port 0): leave it out of a first offer")
    mid = attribute(lines, "mid")
    if mid is None or not TOKEN.fullmatch(mid):
        raise unusable(f"the m={kind} line needs an a=mid of 1 to 16 token characters")
    if kind == "application":
        return parse_application(lines, profile, formats, mid)
    if profile not in ("UDP/TLS/RTP/SAVPF", "UDP/TLS/RTP/SAVP", "RTP/SAVPF", "TCP/TLS/RTP/SAVPF"):
        raise unusable(f"the m={kind} line offers {profile}: only UDP/TLS/RTP/SAVPF is spoken here")
    if "a=rtcp-mux" not in lines and "a=rtcp-mux-only" not in lines:
        raise unusable(f"the m={kind} line needs a=rtcp-mux: RTP and RTCP share one port here")
    codecs = parse_codecs(kind, lines, formats)
    return Section(
        kind=kind,
        mid=mid,
        direction=direction(lines),
        codecs=codecs,
        feedback=parse_feedback(lines, codecs),
        extensions=parse_extensions(kind, lines),
        ssrcs=parse_ssrcs(lines),
    )


def parse_application(lines: list[str], profile: str, formats: list[str], mid: str) -> Section:
    port = attribute(lines, "sctp-port")
    if profile != "UDP/DTLS/SCTP" or formats != ["webrtc-datachannel"] or port is None or not is_port(port):
        raise unusable("m=application must be UDP/DTLS/SCTP webrtc-datachannel with an a=sctp-port")
    return Section(kind="application", mid=mid, direction="sendrecv", sctp_port=int(port))


def direction(lines: list[str]) -> Direction:
    values: tuple[Direction, ...] = ("sendrecv", "sendonly", "recvonly", "inactive")
    return next((value for value in values if f"a={value}" in lines), "sendrecv")


def parse_codecs(kind: str, lines: list[str], formats: list[str]) -> tuple[Codec, ...]:
    """The codecs that this server has: VP8 before H.264, each followed by its retransmission format."""
    offered = {int(pt) for pt in formats if pt.isdecimal() and int(pt) < 128}
    maps = [match for value in attributes(lines, "rtpmap") if (match := RTPMAP.fullmatch(value))]
    formats_of = {int(match[1]): match for match in reversed(maps) if int(match[1]) in offered}
    parameters = format_parameters(lines)
    if kind == "audio":
        known = (audio_codec(pt, formats_of.get(pt)) for pt in order(formats, offered))
        found = [codec for codec in known if codec]
        supported = ", ".join(SUPPORTED_AUDIO)
    else:
        found = video_codecs(order(formats, offered), formats_of, parameters)
        supported = ", ".join(SUPPORTED_VIDEO)
    if not found:
        raise unusable(f"no common {kind} codec: supported are {supported}", "unsupported_media")
    return tuple(found)


def choose_sound(section: Section, wanted: str) -> Section:
    """An audio section with one codec: sound is passed on as it comes, so both ways must speak the same."""
    if section.kind != "audio":
        return section
    fitting = [codec for codec in section.codecs if wanted in ("", codec.name)]
    if not fitting:
        return replace(section, codecs=section.codecs[:1], direction="inactive")
    return replace(section, codecs=(fitting[0],))


def order(formats: list[str], offered: set[int]) -> list[int]:
    return [pt for pt in dict.fromkeys(int(pt) for pt in formats if pt.isdecimal()) if pt in offered]


def format_parameters(lines: list[str]) -> dict[int, dict[str, str]]:
    """The a=fmtp parameters of each payload type."""
    found: dict[int, dict[str, str]] = {}
    for value in attributes(lines, "fmtp"):
        pt, _, text = value.partition(" ")
        if pt.isdecimal() and len(pt) <= 3:
            pairs = (item.partition("=") for item in text.split(";"))
            found[int(pt)] = {key.strip().lower(): v.strip() for key, _, v in pairs}
    return found


def audio_codec(pt: int, described: re.Match[str] | None) -> Codec | None:
    static = {0: "PCMU", 8: "PCMA", 9: "G722"}
    if pt in static:
        return Codec(pt, static[pt], 8000, 1)
    if described and pt >= 96 and described[2].lower() == "opus" and described[3] == "48000":
        return Codec(pt, "opus", 48000, 2, "minptime=10;useinbandfec=1")
    return None


def video_codecs(
    payload_types: list[int], described: dict[int, re.Match[str]], parameters: dict[int, dict[str, str]]
) -> list[Codec]:
    """`described` maps a payload type to its rtpmap; a number below 96 would be answered with another one."""
    usable = [pt for pt in payload_types if pt >= 96 and pt in described and described[pt][3] == "90000"]
    by_name = {pt: described[pt][2].lower() for pt in usable}
    vp8 = [Codec(pt, "VP8", 90000) for pt in usable if by_name[pt] == "vp8"][:1]
    h264 = [
        Codec(pt, "H264", 90000, None, f"{H264_PARAMETERS};profile-level-id={profile}")
        for pt in usable
        if by_name[pt] == "h264" and (profile := h264_profile(parameters.get(pt, {})))
    ][:2]
    found = []
    for codec in vp8 + h264:
        found.append(codec)
        apt = str(codec.payload_type)
        rtx = [pt for pt in usable if by_name[pt] == "rtx" and parameters.get(pt, {}).get("apt") == apt]
        found += [Codec(pt, "rtx", 90000, None, f"apt={apt}") for pt in rtx[:1]]
    return found


def h264_profile(parameters: dict[str, str]) -> str | None:
    """The baseline profile-level-id that stands for the offered one (RFC 6184, 8.1); None: not baseline."""
    if parameters.get("packetization-mode", "0") != "1":
        return None
    offered = parameters.get("profile-level-id", "42e01f").lower()
    if not re.fullmatch("[0-9a-f]{6}", offered):
        return None
    idc, flags, level = bytes.fromhex(offered)
    constrained = (idc, flags & 0x4F) == (0x42, 0x40) or (idc, flags & 0x8F) == (0x4D, 0x80)
    plain = (idc, flags & 0x4F) == (0x42, 0x00)
    if level not in H264_LEVELS or not (constrained or plain):
        return None
    return "42e01f" if constrained else "42001f"


def parse_feedback(lines: list[str], codecs: tuple[Codec, ...]) -> tuple[str, ...]:
    said = set(attributes(lines, "rtcp-fb"))
    media = [codec.payload_type for codec in codecs if codec.name in ("VP8", "H264")]
    return tuple(f"{pt} {kind}" for pt in media for kind in FEEDBACK if {f"{pt} {kind}", f"* {kind}"} & said)


def parse_extensions(kind: str, lines: list[str]) -> tuple[tuple[int, str], ...]:
    found: dict[str, int] = {}
    for value in attributes(lines, "extmap"):
        match = EXTMAP.fullmatch(value)
        if match and kind in HEADER_EXTENSIONS.get(match[2], ()) and 1 <= int(match[1]) <= 14:
            found.setdefault(match[2], int(match[1]))
    if len(set(found.values())) < len(found):
        return ()
    return tuple((number, uri) for uri, number in found.items())


def parse_ssrcs(lines: list[str]) -> tuple[int, ...]:
    """The first media SSRC and its retransmission SSRC; simulcast layers beyond it are not received."""
    for value in attributes(lines, "ssrc-group"):
        numbers = value.split()[1:3]
        if value.startswith("FID ") and len(numbers) == 2 and all(map(is_ssrc, numbers)):
            return int(numbers[0]), int(numbers[1])
    first = next((value.split(" ")[0] for value in attributes(lines, "ssrc")), "")
    return (int(first),) if is_ssrc(first) else ()


def is_ssrc(text: str) -> bool:
    return text.isdecimal() and len(text) <= 10 and 0 < int(text) < 1 << 32


def is_port(text: str) -> bool:
    return text.isdecimal() and len(text) <= 5 and 0 < int(text) < 1 << 16


def check_sections(sections: tuple[Section, ...], purpose: Purpose) -> None:
    """One video line, at most one audio and one data channel line, and a direction that fits the purpose."""
    kinds = [section.kind for section in sections]
    if kinds.count("video") != 1:
        raise unusable(f"exactly one m=video line is expected, found {kinds.count('video')}", "no_video")
    if kinds.count("audio") > 1 or kinds.count("application") > 1:
        raise unusable("at most one m=audio and one m=application line are expected")
    if purpose != "duplex" and "application" in kinds:
        raise unusable("a WHIP or WHEP session has no data channel: leave the m=application line out")
    mids = [section.mid for section in sections]
    if len(set(mids)) < len(mids):
        raise unusable("two m-lines have the same a=mid")
    payload_types = [codec.payload_type for section in sections for codec in section.codecs]
    if len(set(payload_types)) < len(payload_types):
        raise unusable("a payload type stands for two codecs, which BUNDLE forbids")
    video = sections[kinds.index("video")].direction
    if video not in DIRECTIONS[purpose]:
        expected = " or ".join(DIRECTIONS[purpose])
        raise unusable(f"the m=video line must be {expected} here, it is {video}", "wrong_direction")


def check_bundle(session: list[str], blocks: list[list[str]], sections: tuple[Section, ...]) -> list[str]:
    """The lines of the section whose transport all share: the first of the BUNDLE group."""
    groups = [value.split() for value in attributes(session, "group")]
    group = next((members for semantics, *members in groups if semantics == "BUNDLE"), [])
    mids = [section.mid for section in sections]
    if len(sections) > 1 and sorted(group) != sorted(mids):
        raise unusable("the BUNDLE group must name every m-line's mid once: all media share one transport")
    if group and group[0] not in mids:
        raise unusable("the BUNDLE group names a mid that the offer does not have")
    return blocks[mids.index(group[0])] if group else blocks[0]


def ice_credentials(session: list[str], primary: list[str]) -> tuple[str, str]:
    ufrag = attribute(primary, "ice-ufrag") or attribute(session, "ice-ufrag") or ""
    password = attribute(primary, "ice-pwd") or attribute(session, "ice-pwd") or ""
    if not (4 <= len(ufrag) <= 256 and ICE_CHARS.fullmatch(ufrag)):
        raise unusable("the offer needs an a=ice-ufrag of 4 to 256 ice-chars")
    if not (22 <= len(password) <= 256 and ICE_CHARS.fullmatch(password)):
        raise unusable("the offer needs an a=ice-pwd of 22 to 256 ice-chars")
    return ufrag, password


def fingerprints(session: list[str], primary: list[str]) -> tuple[tuple[str, str], ...]:
    found = []
    for value in attributes(primary, "fingerprint") or attributes(session, "fingerprint"):
        algorithm, _, digest = value.partition(" ")
        length = FINGERPRINT_BYTES.get(algorithm.lower())
        if length and re.fullmatch(rf"[0-9A-Fa-f]{{2}}(:[0-9A-Fa-f]{{2}}){{{length - 1}}}", digest):
            found.append((algorithm.lower(), digest.upper()))
    if not found:
        raise unusable("the offer needs an a=fingerprint of sha-256, sha-384 or sha-512")
    return tuple(found[:4])


def setup(session: list[str], primary: list[str]) -> Literal["active", "passive"]:
    """The client's DTLS role: a client that leaves the choice starts the handshake, so that we never do.

    A server that answers passive works with every certificate type and offers no race on its ClientHello.
    """
    value = attribute(primary, "setup") or attribute(session, "setup")
    if value not in ("actpass", "active", "passive"):
        raise unusable(f"the offer needs a=setup:actpass, active or passive, found {value}")
    return "passive" if value == "passive" else "active"


def write_offer(offer: Offer) -> str:
    """The offer as the WebRTC stack sees it."""
    lines = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0"]
    lines.append(f"a=group:BUNDLE {' '.join(section.mid for section in offer.sections)}")
    lines.append("a=msid-semantic:WMS *")
    for section in offer.sections:
        lines += write_section(section) + write_transport(offer)
    return "\r\n".join(lines) + "\r\n"


def write_section(section: Section) -> list[str]:
    if section.kind == "application":
        lines = ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0"]
        lines += [f"a=mid:{section.mid}", f"a=sctp-port:{section.sctp_port}"]
        return [*lines, "a=max-message-size:65536"]
    types = " ".join(str(codec.payload_type) for codec in section.codecs)
    lines = [f"m={section.kind} 9 UDP/TLS/RTP/SAVPF {types}", "c=IN IP4 0.0.0.0"]
    lines += [f"a=mid:{section.mid}", f"a={section.direction}", "a=rtcp-mux"]
    lines += [f"a=extmap:{number} {uri}" for number, uri in section.extensions]
    for codec in section.codecs:
        channels = f"/{codec.channels}" if codec.channels and codec.channels > 1 else ""
        lines.append(f"a=rtpmap:{codec.payload_type} {codec.name}/{codec.clock}{channels}")
        lines += [f"a=fmtp:{codec.payload_type} {codec.parameters}"] if codec.parameters else []
    lines += [f"a=rtcp-fb:{value}" for value in section.feedback]
    if len(section.ssrcs) == 2:
        lines.append(f"a=ssrc-group:FID {section.ssrcs[0]} {section.ssrcs[1]}")
    return lines + [f"a=ssrc:{ssrc} cname:client" for ssrc in section.ssrcs]


def write_transport(offer: Offer) -> list[str]:
    lines = [f"a=ice-ufrag:{offer.ufrag}", f"a=ice-pwd:{offer.password}", "a=ice-options:trickle"]
    lines += [f"a=fingerprint:{algorithm} {digest}" for algorithm, digest in offer.fingerprints]
    lines.append(f"a=setup:{offer.setup}")
    return lines + [f"a=candidate:{candidate}" for candidate in offer.candidates]


# --- candidates -----------------------------------------------------------------------------------


def collect_candidates(blocks: list[list[str]], limits: SdpLimits) -> tuple[tuple[Candidate, ...], int]:
    """The distinct candidates that may be probed, best first, and how many were ignored."""
    values = [value for block in blocks for value in attributes(block, "candidate")]
    found = {(c.address, c.port): c for value in values if (c := parse_candidate(value, limits))}
    kept = sorted(found.values(), key=lambda candidate: -candidate.priority)[: limits.max_candidates]
    return tuple(kept), len(values) - len(kept)


def parse_candidate(value: str, limits: SdpLimits) -> Candidate | None:
    """The candidate, or None when it cannot or must not be probed (RFC 8839, 5.1)."""
    match = CANDIDATE.fullmatch(value)
    if match is None or match[2] != "1" or match[3].lower() != "udp" or match[7] not in CANDIDATE_KINDS:
        return None
    address = probeable(match[5], limits)
    if address is None or not is_port(match[6]) or int(match[4]) >= 1 << 32:
        return None
    return Candidate(match[1], int(match[4]), address, int(match[6]), match[7])


def probeable(text: str, limits: SdpLimits) -> str | None:
    """The unicast address in `text` in its plain form, or None: a host name or a place we must not probe.

    An IPv4 address inside an IPv6 one is judged as what it is.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped or address.sixtofour or address.teredo:
            return probeable(str(address.ipv4_mapped), limits) if address.ipv4_mapped else None
        if address.scope_id:
            return None
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        return None
    if address.is_loopback:
        return str(address) if limits.allow_loopback else None
    if address.is_reserved or str(address) == "255.255.255.255":
        return None
    return str(address) if limits.allow_private or not address.is_private else None


def parse_fragment(text: str, limits: SdpLimits | None = None) -> Fragment:
    """Trickled candidates (RFC 8840, `application/trickle-ice-sdpfrag`); raises `OfferRefused`."""
    limits = limits or SdpLimits()
    lines = split_lines(text, limits)
    ufrag = attribute(lines, "ice-ufrag")
    complete = "a=end-of-candidates" in lines
    if ufrag is None and not complete and not attributes(lines, "candidate"):
        raise malformed("a trickle fragment has a=ice-ufrag, a=candidate or a=end-of-candidates lines")
    candidates, _ = collect_candidates([lines], limits)
    return Fragment(ufrag, candidates, complete)


# --- answers --------------------------------------------------------------------------------------


class AnswerOptions(Config):
    """What the answer tells the client beyond what the WebRTC stack writes."""

    start_kbps: int = Field(1500, ge=100)
    """kbit/s at which libwebrtc clients start to send (x-google-start-bitrate); their own 300 is too low"""
    max_kbps: int = Field(3000, ge=100)
    """kbit/s that a client may send at most (b=AS)"""
    trickle: bool = True
    """candidates may follow by PATCH"""
    public_address: str | None = None
    """address under which the media ports are reached from outside, behind a 1:1 NAT"""


def complete_answer(text: str, options: AnswerOptions) -> str:
    """The stack's answer with bit rates, rtcp-mux-only, trickle and the public address added."""
    lines = text.splitlines()
    encoders = [match[1] for line in lines if (match := re.match(r"a=rtpmap:(\d+) (?:VP8|H264)/", line))]
    described = [match[1] for line in lines if (match := re.match(r"a=fmtp:(\d+) ", line))]
    start = f"x-google-start-bitrate={options.start_kbps}"
    result: list[str] = []
    kind = ""
    for line in lines:
        name, _, value = line.partition(":")
        pt = value.split(" ")[0]
        kind = line[2:].split(" ")[0] if line.startswith("m=") else kind
        if name == "a=candidate" and options.public_address:
            line = publish_address(line, options.public_address)
        if name == "a=fmtp" and pt in encoders:
            line += f";{start}"
        result.append(line)
        if line.startswith("c=") and kind == "video":
            result.append(f"b=AS:{options.max_kbps}")
        elif line == "a=rtcp-mux":
            result.append("a=rtcp-mux-only")
        elif name == "a=rtpmap" and pt in encoders and pt not in described:
            result.append(f"a=fmtp:{pt} {start}")
        elif name == "a=ice-pwd" and options.trickle:
            result.append("a=ice-options:trickle")
    return "\r\n".join(result) + "\r\n"


def publish_address(line: str, public: str) -> str:
    """A host candidate line under the public address, when both are of one IP version; others stay."""
    fields = line.split(" ")
    same_version = (":" in fields[4]) == (":" in public)
    if "host" in fields[7:8] and same_version:
        fields[4] = public
    return " ".join(fields)


def shorten(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[:length] + "…")
