"""The codecs of an offer that the server speaks."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from server.webrtc.sdp_lines import attributes, unusable

SUPPORTED_VIDEO = ("VP8", "H264 (baseline, main or high, without B-frames)")
SUPPORTED_AUDIO = ("opus", "PCMU", "PCMA", "G722")
H264_LEVELS = frozenset((9, 10, 11, 12, 13, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52, 60, 61, 62))
H264_PROFILES = (0x42, 0x4D, 0x64)
"""profile_idc of the profiles that are decoded (ITU-T H.264, A.2): baseline, main and high, in order of preference"""
RTPMAP = re.compile(r"(\d{1,3}) ([A-Za-z0-9_.-]{1,32})/(\d{1,6})(?:/(\d{1,2}))?", re.A)


@dataclass(frozen=True)
class Codec:
    """One payload type of an m-line, as it is shown to the WebRTC stack."""

    payload_type: int
    name: str
    clock: int
    channels: int | None = None
    parameters: str = ""
    wire: int | None = None
    """the offered payload type, where `payload_type` only stands for it: aiortc keeps no dynamic number below 96"""
    restated: str | None = None
    """the a=fmtp parameters that the answer repeats from the offer, where `parameters` only stand for them"""


def parse_codecs(kind: str, lines: list[str], formats: list[str], sends_only: bool) -> tuple[Codec, ...]:
    """The codecs that this server has: VP8 before H.264, each followed by its retransmission format.

    `sends_only`: the client takes no video back, so its H.264 need not be packetized as ours is.
    """
    offered = {int(pt) for pt in formats if pt.isdecimal() and int(pt) < 128}
    maps = [match for value in attributes(lines, "rtpmap") if (match := RTPMAP.fullmatch(value))]
    formats_of = {int(match[1]): match for match in reversed(maps) if int(match[1]) in offered}
    parameters = format_parameters(lines)
    if kind == "audio":
        known = (audio_codec(pt, formats_of.get(pt)) for pt in order(formats, offered))
        found = [codec for codec in known if codec]
        supported = ", ".join(SUPPORTED_AUDIO)
    else:
        found = video_codecs(order(formats, offered), formats_of, parameters, sends_only)
        supported = ", ".join(SUPPORTED_VIDEO)
    if not found:
        raise unusable(f"no common {kind} codec: supported are {supported}", "unsupported_media")
    return tuple(found)


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
    payload_types: list[int],
    described: dict[int, re.Match[str]],
    parameters: dict[int, dict[str, str]],
    sends_only: bool,
) -> list[Codec]:
    """`described` maps a payload type to its rtpmap."""
    usable = [pt for pt in payload_types if is_dynamic(pt) and pt in described and described[pt][3] == "90000"]
    by_name = {pt: described[pt][2].lower() for pt in usable}
    vp8 = [Codec(pt, "VP8", 90000) for pt in usable if by_name[pt] == "vp8"][:1]
    h264 = h264_codecs({pt: parameters.get(pt, {}) for pt in usable if by_name[pt] == "h264"}, sends_only)
    found = []
    for codec in vp8 + h264[:2]:
        found.append(codec)
        apt = str(codec.payload_type)
        rtx = [pt for pt in usable if by_name[pt] == "rtx" and parameters.get(pt, {}).get("apt") == apt]
        found += [Codec(pt, "rtx", 90000, None, f"apt={apt}") for pt in rtx[:1]]
    return found


def is_dynamic(pt: int) -> bool:
    """Whether a payload type may be any codec. Browsers use 35 to 63 when 96 to 127 are all taken (RFC 3551, 3)."""
    return pt >= 96 or 35 <= pt <= 63


def with_stand_ins(codecs: tuple[Codec, ...], stand_ins: dict[int, int]) -> tuple[Codec, ...]:
    """`codecs` with other payload types, those that `stand_ins` maps the offered ones to."""
    found = []
    for codec in codecs:
        name, _, apt = codec.parameters.partition("=")
        if name == "apt" and int(apt) in stand_ins:
            codec = replace(codec, parameters=f"apt={stand_ins[int(apt)]}")
        if codec.payload_type in stand_ins:
            codec = replace(codec, payload_type=stand_ins[codec.payload_type], wire=codec.payload_type)
        found.append(codec)
    return tuple(found)


def h264_codecs(offered: dict[int, dict[str, str]], sends_only: bool) -> list[Codec]:
    """The payload types of H.264 that can be received: those of the best kind that is offered."""
    ranked = []
    for pt, parameters in offered.items():
        mode, profile = parameters.get("packetization-mode", "0"), h264_profile(parameters)
        if profile is not None and (mode == "1" or (mode == "0" and sends_only)):
            kind = mode == "0", H264_PROFILES.index(int(profile[:2], 16))
            ranked.append((kind, h264_codec(pt, mode, profile)))
    best = min((kind for kind, _ in ranked), default=None)
    return [codec for kind, codec in ranked if kind == best]


def h264_codec(pt: int, mode: str, profile: str) -> Codec:
    """A payload type of H.264. aiortc knows baseline in packetization mode 1 only, so that stands for the others.

    The answer must then repeat the profile and the mode of the offer (RFC 6184, 8.2.2).
    """
    asymmetric, baseline = "level-asymmetry-allowed=1", int(profile[:2], 16) == 0x42
    plain = baseline and not int(profile[2:4], 16) & 0x40
    stand_in = f"{asymmetric};packetization-mode=1;profile-level-id={'42001f' if plain else '42e01f'}"
    restated = f"{asymmetric};packetization-mode={mode};profile-level-id={profile}"
    return Codec(pt, "H264", 90000, None, stand_in, restated=None if baseline and mode == "1" else restated)


def h264_profile(parameters: dict[str, str]) -> str | None:
    """The offered profile-level-id (RFC 6184, 8.1); None when its profile or its level is not decoded."""
    offered = parameters.get("profile-level-id", "42e01f").lower()
    if not re.fullmatch("[0-9a-f]{6}", offered):
        return None
    idc, _, level = bytes.fromhex(offered)
    return offered if idc in H264_PROFILES and level in H264_LEVELS else None
