"""The WebRTC stack's answer, completed with what it leaves out. Pure: text in, text out."""

from __future__ import annotations

import re

from pydantic import Field

from core.config import Config
from server.webrtc.offer import Offer

MAX_MESSAGE = 4096
"""bytes of one data channel message that a client may send; the server reads none"""


class AnswerOptions(Config):
    """What the answer says beyond what the WebRTC stack writes."""

    start_kbps: int = Field(1500, ge=100, le=1_000_000)
    """kbit/s at which libwebrtc clients start to send (x-google-start-bitrate); their own 300 is too low"""
    max_kbps: int = Field(3000, ge=100, le=1_000_000)
    """kbit/s that a client may send at most (b=AS)"""
    trickle: bool = True
    """candidates may follow by PATCH"""
    public_address: str | None = None
    """address at which clients reach the media ports, behind a 1:1 NAT"""


def complete_answer(text: str, options: AnswerOptions, offer: Offer | None = None) -> str:
    """The stack's answer with bit rates, rtcp-mux-only, trickle and the public address added.

    Of `offer` it repeats the H.264 parameters, and the m-lines that are rejected.
    """
    lines = restate(text.splitlines(), offer) if offer else text.splitlines()
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
        if name == "a=max-message-size":
            line = f"{name}:{MAX_MESSAGE}"
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


def restate(lines: list[str], offer: Offer) -> list[str]:
    """The answer's lines with the offered parameters and payload types in place of those that stand for them."""
    restated = {c.payload_type: c.restated for section in offer.sections for c in section.codecs if c.restated}
    found = []
    for line in lines:
        match = re.match(r"a=fmtp:(\d+) ", line)
        parameters = restated.get(int(match[1])) if match else None
        found.append(f"a=fmtp:{match[1]} {parameters}" if match and parameters else line)
    wires = {stand_in: offered for offered, stand_in in offer.stand_ins.items()}
    return insert_rejected([offered_types(line, wires) for line in found] if wires else found, offer)


def offered_types(line: str, wires: dict[int, int]) -> str:
    """A line with the payload types of the offer, which `wires` maps ours to."""

    def swap(text: str) -> str:
        return str(wires.get(int(text), text)) if text.isdecimal() else text

    if line.startswith("m=video "):
        kind, port, profile, *types = line.split(" ")
        return " ".join([kind, port, profile, *map(swap, types)])
    line = re.sub(r"^(a=(?:rtpmap|fmtp|rtcp-fb):)(\d+)", lambda match: match[1] + swap(match[2]), line)
    return re.sub(r"^(a=fmtp:\d+ apt=)(\d+)", lambda match: match[1] + swap(match[2]), line)


def insert_rejected(lines: list[str], offer: Offer) -> list[str]:
    """The answer's lines with an m-line at port 0 for each that was rejected (RFC 3264, 6), in the offer's order."""
    starts = [i for i, line in enumerate(lines) if line.startswith("m=")]
    session, ends = lines[: starts[0]], [*starts[1:], len(lines)]
    blocks = [lines[a:b] for a, b in zip(starts, ends, strict=True)]
    for rejected in offer.rejected:
        block = [f"m={rejected.kind} 0 {rejected.profile} {rejected.formats}", "c=IN IP4 0.0.0.0", "a=inactive"]
        blocks.insert(rejected.index, block + ([f"a=mid:{rejected.mid}"] if rejected.mid else []))
    return session + [line for block in blocks for line in block]


def publish_address(line: str, public: str) -> str:
    """A host candidate line under the public address, when both are of one IP version; others stay."""
    fields = line.split(" ")
    same_version = (":" in fields[4]) == (":" in public)
    if "host" in fields[7:8] and same_version:
        fields[4] = public
    return " ".join(fields)
