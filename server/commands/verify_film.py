"""The pictures of a file beside a certificate, chunk by chunk; and y, where it is given."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain

import av

from server.certificates.certificate import Certificate
from server.certificates.chain import Fault
from server.certificates.film import Cut, cuts
from server.certificates.hashes import pixels_hash
from server.certificates.records import ChunkRecord, Sizes
from server.commands.remeasure import Remeasured, unpadded
from server.commands.verify_report import Findings

TIME = 0.002
"""seconds: containers round the times of pictures to milliseconds"""
ROUNDING = 1e-3
"""how much of a residual may come from rounding, on another processor or in another version of torch"""


def compare(
    frames: Iterator[av.VideoFrame], certificate: Certificate, again: Remeasured | None, findings: Findings
) -> None:
    """Raises Fault at the first chunk that is not the certified one."""
    lengths = [chunk.frames for chunk in certificate.chunks]
    found = cuts(frames, lengths)
    for chunk in certificate.chunks:
        cut = next(found, None)
        check_cut(chunk, cut)
        if again and cut:
            check_measurement(chunk, cut, certificate, again, findings)
        findings.chunks += 1
        findings.frames += chunk.frames
    if next(frames, None) is not None:
        raise Fault(f"the file has more than the {certificate.end.frames} certified pictures")
    if again and again.next() is not None:
        raise Fault(f"the measurement has more than the {certificate.end.frames} certified pictures")


def of_size(frames: Iterator[av.VideoFrame], sizes: Sizes) -> Iterator[av.VideoFrame]:
    """The same frames. Raises Fault where the first has another size: its signer may name one that takes hours."""
    first = next(frames, None)
    if first is None:
        return frames
    found = first.height, first.width
    if any(not side <= has <= side + side % 2 for side, has in zip(sizes.shown, found, strict=True)):
        height, width = sizes.shown
        raise Fault(f"the file's pictures are {first.width}x{first.height}, certified are {width}x{height}", 0)
    return chain([first], frames)


def check_cut(chunk: ChunkRecord, cut: Cut | None) -> None:
    last = chunk.first + chunk.frames - 1
    missing = chunk.frames - (len(cut.frames) if cut else 0)
    if missing or cut is None:
        raise Fault(f"the file ends too soon: of pictures {chunk.first} to {last}, {missing} are missing", chunk.chunk)
    if cut.sha256 != chunk.decoded:
        raise Fault(f"pictures {chunk.first} to {last} are not the certified ones", chunk.chunk)
    late = max(abs(a - b) for a, b in zip(cut.shown, chunk.shown, strict=True))
    if late > TIME:
        raise Fault(f"pictures {chunk.first} to {last} are shown {late:.3f} s off their certified times", chunk.chunk)


def check_measurement(
    chunk: ChunkRecord, cut: Cut, certificate: Certificate, again: Remeasured, findings: Findings
) -> None:
    sizes = certificate.header.sizes
    y = again.next()
    if y is None:
        raise Fault("the measurement ends too soon: it has no such chunk", chunk.chunk)
    if pixels_hash(unpadded(y, sizes)) != chunk.y:
        raise Fault(f"its measurement is not the certified one{reason(certificate, findings)}", chunk.chunk)
    residual = again.residual(y, cut.pixels(sizes.shown))
    findings.residuals.append(residual)
    stated = chunk.residual_file
    if stated is not None and abs(residual - stated) > ROUNDING * max(stated, ROUNDING):
        raise Fault(f"the residual of the file's pictures is {residual:.6f}, certified is {stated:.6f}", chunk.chunk)


def reason(certificate: Certificate, findings: Findings) -> str:
    """Why y may be another one though its file is the same."""
    if not findings.same_measurement:
        return ""
    signed, here = certificate.header.libraries.get("av"), version("av")
    if signed == here:
        return ", though its file is: this machine converts its colours otherwise"
    return f", though its file is: it was read with PyAV {signed}, here with {here}"
