"""The WebRTC stack's answer, completed with what it leaves out."""

from __future__ import annotations

import re

from pydantic import Field

from core.config import Config


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
