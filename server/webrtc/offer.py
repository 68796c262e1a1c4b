"""Offers, checked before the WebRTC stack sees them. Pure: text in, text out.

An offer is never filtered line by line. What is understood is parsed, and a new offer is written from it, so that
the stack reads only lines that this module made. The rest is refused with a code and one sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from server.webrtc.candidates import Candidate, collect_candidates
from server.webrtc.codecs import Codec, parse_codecs, with_stand_ins
from server.webrtc.layers import Layer
from server.webrtc.sdp_lines import SdpLimits, attribute, attributes, is_port, malformed, shorten, split_lines, unusable

Purpose = Literal["duplex", "publish", "play"]
"""What the client wants: send and watch in one session, send only (WHIP), or watch only (WHEP)."""
Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]

DIRECTIONS: dict[Purpose, tuple[Direction, ...]] = {
    "duplex": ("sendrecv",),
    "publish": ("sendrecv", "sendonly"),
    "play": ("sendrecv", "recvonly"),
}

HEADER_EXTENSIONS = {
    "urn:ietf:params:rtp-hdrext:sdes:mid": ("audio", "video"),
    "urn:ietf:params:rtp-hdrext:ssrc-audio-level": ("audio",),
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time": ("video",),
}
FEEDBACK = ("nack", "nack pli", "ccm fir", "goog-remb")
FINGERPRINT_BYTES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}

MOST_M_LINES = 16
"""m-lines of an offer, those that are rejected too"""
MOST_LAYERS = 4
"""SSRCs of one section that may be followed, one at a time"""
M_LINE = re.compile(r"m=([a-z]{1,16}) (\d{1,5})(?:/\d{1,3})? ([A-Z/]{1,32})((?: [\w.+-]{1,32}){1,128})", re.A)
TOKEN = re.compile(r"[!#$%&'*+.^_`{|}~0-9A-Za-z-]{1,16}")
ICE_CHARS = re.compile(r"[A-Za-z0-9+/]+")
EXTMAP = re.compile(r"(\d{1,3})(?:/\w{1,8})? (\S{1,128})(?: .*)?", re.A)


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
    layers: tuple[Layer, ...] = ()
    """the SSRCs that the offer names, the preferred layer first"""
    sctp_port: int = 0

    @property
    def ssrcs(self) -> tuple[int, ...]:
        """The SSRC of the preferred layer, and that of its retransmissions when there is one."""
        return tuple(ssrc for layer in self.layers[:1] for ssrc in (layer.ssrc, layer.rtx) if ssrc is not None)


@dataclass(frozen=True)
class Rejected:
    """An m-line that is answered with port 0: the client switched it off, or offers more than we use."""

    index: int
    kind: str
    profile: str
    formats: str
    mid: str | None


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
    lite: bool = False
    """the client is an ICE-lite agent: it answers checks and sends none (RFC 8445, 2.5)"""
    rejected: tuple[Rejected, ...] = ()
    text: str = field(default="", repr=False)

    @property
    def stand_ins(self) -> dict[int, int]:
        """The payload types that the WebRTC stack uses in place of offered ones below 96, by the offered ones."""
        codecs = (codec for section in self.sections for codec in section.codecs)
        return {codec.wire: codec.payload_type for codec in codecs if codec.wire is not None}

    def section(self, kind: str) -> Section | None:
        return next((section for section in self.sections if section.kind == kind), None)

    @property
    def video(self) -> Section:
        return next(section for section in self.sections if section.kind == "video")


def parse_offer(text: str, limits: SdpLimits | None = None, purpose: Purpose = "duplex", sound: str = "") -> Offer:
    """The offer in `text`, reduced to what this server can answer; raises `Refusal`.

    `sound` names the audio codec of the stream that is played; the audio of a client without it is switched off.
    By default it is the first codec that the client offers.
    """
    limits = limits or SdpLimits()
    session, every_block = split_sections(text, limits)
    blocks, rejected = set_aside(every_block, limits)
    sections = tuple(choose_sound(parse_section(block, alone=len(blocks) == 1), sound) for block in blocks)
    check_sections(sections, purpose)
    sections = use_stand_ins(sections)
    primary = check_bundle(session, blocks, sections, rejected)
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
        lite="a=ice-lite" in session,
        rejected=rejected,
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
    if len(starts) > MOST_M_LINES:
        raise unusable(f"the offer may have {MOST_M_LINES} m-lines, this one has {len(starts)}")
    ends = [*starts[1:], len(lines)]
    return lines[: starts[0]], [lines[a:b] for a, b in zip(starts, ends, strict=True)]


def set_aside(blocks: list[list[str]], limits: SdpLimits) -> tuple[list[list[str]], tuple[Rejected, ...]]:
    """The blocks to answer, and the m-lines to reject: those at port 0, and what is inactive beyond one of its kind."""
    kept: list[list[str]] = []
    rejected: list[Rejected] = []
    kinds: set[str] = set()
    for index, lines in enumerate(blocks):
        kind, port, profile, formats = parse_m_line(lines[0])
        off = port == 0 and "a=bundle-only" not in lines
        if off or (kind in kinds and direction(lines) == "inactive"):
            rejected.append(Rejected(index, kind, profile, formats, find_mid(lines)))
        else:
            kinds.add(kind)
            kept.append(lines)
    if len(kept) > limits.max_sections:
        raise unusable(f"the offer may have {limits.max_sections} m-lines, this one has {len(kept)}")
    if not kept:
        raise unusable("every m-line of the offer is switched off (port 0)", "no_video")
    return kept, tuple(rejected)


def parse_m_line(line: str) -> tuple[str, int, str, str]:
    """Kind, port, profile and formats of an m-line."""
    match = M_LINE.fullmatch(line.rstrip())
    if match is None:
        raise malformed(f"cannot read the m-line {shorten(line)}")
    return match[1], int(match[2]), match[3], match[4].strip()


def find_mid(lines: list[str]) -> str | None:
    mid = attribute(lines, "mid")
    return mid if mid is not None and TOKEN.fullmatch(mid) else None


def parse_section(lines: list[str], alone: bool = False) -> Section:
    """One m-line and its attributes. `alone`: it is the only one, so it needs no a=mid."""
    kind, _, profile, formats = parse_m_line(lines[0])
    if kind not in ("audio", "video", "application"):
        raise unusable(f"an m-line is audio, video or application, not {kind}")
    mid = "0" if alone and attribute(lines, "mid") is None else find_mid(lines)
    if mid is None:
        raise unusable(f"the m={kind} line needs an a=mid of 1 to 16 token characters")
    if kind == "application":
        return parse_application(lines, profile, formats.split(), mid)
    if profile not in ("UDP/TLS/RTP/SAVPF", "UDP/TLS/RTP/SAVP", "RTP/SAVPF", "TCP/TLS/RTP/SAVPF"):
        raise unusable(f"the m={kind} line offers {profile}: only UDP/TLS/RTP/SAVPF is supported")
    if "a=rtcp-mux" not in lines and "a=rtcp-mux-only" not in lines:
        raise unusable(f"the m={kind} line needs a=rtcp-mux: RTP and RTCP share one port here")
    codecs = parse_codecs(kind, lines, formats.split(), sends_only=direction(lines) == "sendonly")
    return Section(
        kind=kind,
        mid=mid,
        direction=direction(lines),
        codecs=codecs,
        feedback=parse_feedback(lines, codecs),
        extensions=parse_extensions(kind, lines),
        layers=parse_layers(lines),
    )


def parse_application(lines: list[str], profile: str, formats: list[str], mid: str) -> Section:
    port = attribute(lines, "sctp-port")
    if profile != "UDP/DTLS/SCTP" or formats != ["webrtc-datachannel"] or port is None or not is_port(port):
        raise unusable("m=application must be UDP/DTLS/SCTP webrtc-datachannel with an a=sctp-port")
    return Section(kind="application", mid=mid, direction="sendrecv", sctp_port=int(port))


def direction(lines: list[str]) -> Direction:
    values: tuple[Direction, ...] = ("sendrecv", "sendonly", "recvonly", "inactive")
    return next((value for value in values if f"a={value}" in lines), "sendrecv")


def choose_sound(section: Section, wanted: str) -> Section:
    """An audio section with one codec. Sound is passed on as it arrives, so both directions must use the same."""
    if section.kind != "audio":
        return section
    fitting = [codec for codec in section.codecs if wanted in ("", codec.name)]
    if not fitting:
        return replace(section, codecs=section.codecs[:1], direction="inactive")
    return replace(section, codecs=(fitting[0],))


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


def parse_layers(lines: list[str]) -> tuple[Layer, ...]:
    """The media SSRCs that a section names, each with its retransmissions (RFC 5576, RFC 4588)."""
    groups = [words for value in attributes(lines, "ssrc-group") if (words := value.split())]
    pairs = [(semantics, numbers) for semantics, *numbers in groups if all(map(is_ssrc, numbers))]
    rtx = {int(numbers[0]): int(numbers[1]) for semantics, numbers in pairs if semantics == "FID" and len(numbers) == 2}
    simulcast = [int(n) for semantics, numbers in pairs if semantics == "SIM" for n in numbers]
    named = [int(text) for value in attributes(lines, "ssrc") if is_ssrc(text := value.split(" ")[0])]
    repairs = {int(numbers[-1]) for semantics, numbers in pairs if semantics != "SIM" and len(numbers) > 1}
    media = [ssrc for ssrc in dict.fromkeys([*simulcast, *rtx, *named]) if ssrc not in repairs]
    return tuple(Layer(ssrc, rtx.get(ssrc)) for ssrc in media[:MOST_LAYERS])


def use_stand_ins(sections: tuple[Section, ...]) -> tuple[Section, ...]:
    """The sections with free payload types from 96 in place of the video's below it, which aiortc cannot keep."""
    taken = {codec.payload_type for section in sections for codec in section.codecs}
    video = [codec.payload_type for section in sections if section.kind == "video" for codec in section.codecs]
    free = (pt for pt in range(127, 95, -1) if pt not in taken)
    stand_ins = {pt: next(free) for pt in video if pt < 96}
    return tuple(
        replace(
            section,
            codecs=with_stand_ins(section.codecs, stand_ins),
            feedback=tuple(stand_in_feedback(value, stand_ins) for value in section.feedback),
        )
        if section.kind == "video"
        else section
        for section in sections
    )


def stand_in_feedback(value: str, stand_ins: dict[int, int]) -> str:
    """`PT TYPE` with the payload type that stands in for PT."""
    pt, _, kind = value.partition(" ")
    return f"{stand_ins.get(int(pt), pt)} {kind}"


def is_ssrc(text: str) -> bool:
    return text.isdecimal() and len(text) <= 10 and 0 < int(text) < 1 << 32


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
        raise unusable("two codecs have the same payload type, which BUNDLE forbids")
    video = sections[kinds.index("video")].direction
    if video not in DIRECTIONS[purpose]:
        expected = " or ".join(DIRECTIONS[purpose])
        raise unusable(f"the m=video line must be {expected} here, it is {video}", "wrong_direction")


def check_bundle(
    session: list[str], blocks: list[list[str]], sections: tuple[Section, ...], rejected: tuple[Rejected, ...] = ()
) -> list[str]:
    """The lines of the section whose transport all share: the first of the BUNDLE group that is not rejected."""
    groups = [words for value in attributes(session, "group") if (words := value.split())]
    members = next((members for semantics, *members in groups if semantics == "BUNDLE"), [])
    mids = [section.mid for section in sections]
    gone = {line.mid for line in rejected} - set(mids)
    group = [mid for mid in members if mid not in gone]
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
    """The client's DTLS role. A client that leaves us the choice starts the handshake.

    A server that answers passive works with every certificate type, and sends no ClientHello that a stranger could
    answer first.
    """
    value = attribute(primary, "setup") or attribute(session, "setup")
    if value not in ("actpass", "active", "passive"):
        raise unusable(f"the offer needs a=setup:actpass, active or passive, found {value}")
    return "passive" if value == "passive" else "active"


def write_offer(offer: Offer) -> str:
    """The offer as the WebRTC stack sees it."""
    lines = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0", *(["a=ice-lite"] if offer.lite else [])]
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
