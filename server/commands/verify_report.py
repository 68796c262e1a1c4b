"""What `avis verify` found, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.markup import escape
from rich.table import Table

from core.contract import TrustShares
from server.certificates.certificate import Certificate
from server.certificates.chain import Fault
from server.files.paths import named

LONGEST = 2000
"""letters that are shown of what a certificate says in words"""


@dataclass
class Findings:
    """What was looked at, up to the first fault."""

    file: Path
    sidecar: Path
    certificate: Certificate | None = None
    signer_known: bool = False
    """the key that signed is the one that was given"""
    same_file: bool = False
    """byte for byte"""
    same_measurement: bool | None = None
    """the file of y is the certified one, byte for byte; None where none was certified or none was given"""
    chunks: int = 0
    frames: int = 0
    residuals: list[float] = field(default_factory=list)
    """of the file's pictures against y, computed here"""
    fault: Fault | None = None


def report(findings: Findings) -> dict[str, Any]:
    fault = findings.fault
    found: dict[str, Any] = {
        "valid": fault is None,
        "fault": None if fault is None else {"what": fault.what, "chunk": fault.chunk},
        "file": str(findings.file),
        "certificate": str(findings.sidecar),
        "chunks": findings.chunks,
        "frames": findings.frames,
        "same_file": findings.same_file,
        "same_measurement": findings.same_measurement,
    }
    if findings.certificate:
        found |= certified(findings.certificate)
        found["signer_known"] = findings.signer_known
        found["residual"]["computed"] = fmean(findings.residuals) if findings.residuals else None
    return found


def certified(certificate: Certificate) -> dict[str, Any]:
    """What the certificate says, over all its chunks."""
    header, chunks = certificate.header, certificate.chunks
    restored = [chunk.residual for chunk in chunks if chunk.residual is not None]
    in_file = [chunk.residual_file for chunk in chunks if chunk.residual_file is not None]
    return {
        "certifies": header.certifies,
        "public_key": header.public_key,
        "made": header.made,
        "tool": header.tool,
        "model": header.model.name,
        "operator": header.operator,
        "residual": {"restored": fmean(restored) if restored else None, "file": fmean(in_file) if in_file else None},
        "trust": shares_of(certificate),
        "rungs": dict(Counter(chunk.rung for chunk in chunks)),
    }


def shares_of(certificate: Certificate) -> dict[str, float] | None:
    """The mean trust shares of the pictures whose chunks have any."""
    known = [(chunk.frames, chunk.trust) for chunk in certificate.chunks if chunk.trust is not None]
    total = sum(frames for frames, _ in known)
    if not total:
        return None
    return {
        share: sum(frames * float(getattr(trust, share)) for frames, trust in known) / total
        for share in TrustShares.model_fields
    }


def brief(text: str) -> str:
    """`text` on one line of bearable length: whoever signed it may be anybody."""
    line = named(text)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def table(findings: Findings) -> Table:
    lines = Table(show_header=False, box=None)
    fault = findings.fault
    where = "" if fault is None or fault.chunk is None else f"chunk {fault.chunk}: "
    lines.add_row("file", escape(named(findings.file)))
    lines.add_row("verdict", "valid" if fault is None else f"not valid: {escape(brief(where + fault.what))}")
    if fault is None and findings.certificate:
        for name, text in facts(findings, findings.certificate):
            lines.add_row(name, escape(brief(text)))
    return lines


def facts(findings: Findings, certificate: Certificate) -> list[tuple[str, str]]:
    """What stands below the verdict of a certificate that holds."""
    found = report(findings)
    header, trust, residual = certificate.header, found["trust"], found["residual"]
    signer = "the key that you gave" if findings.signer_known else "whom you do not know without --key"
    lines = [
        ("pictures", f"{findings.frames} in {findings.chunks} chunks{'' if findings.same_file else ', packed anew'}"),
        ("signed by", f"{header.public_key}, {signer}"),
        ("made", f"{header.made} by the signer's clock, {header.tool}, model {header.model.name}"),
        ("operator", f"{header.operator.get('kind')}, noise {header.operator.get('noise')}"),
        ("chunks", ", ".join(f"{count} {rung}" for rung, count in found["rungs"].items())),
        ("residual", restored(residual)),
        ("trust", ", ".join(f"{share} {value:.1%}" for share, value in trust.items()) if trust else "not stated"),
        ("measurement", measured(findings)),
    ]
    if certificate.end.damaged or certificate.end.warnings:
        flaws = [f"{certificate.end.damaged} packets were damaged", *certificate.end.warnings]
        lines.append(("source", "; ".join(flaws)))
    return [*lines, ("means", header.certifies)]


def restored(residual: dict[str, Any]) -> str:
    """The residual of the restored frames and that of the file's pictures: what lies between them is the codec's."""
    if residual["restored"] is None:
        return "none: nothing was restored"
    words = f"{residual['restored']:.4f} as restored"
    if residual["file"] is None:
        return words
    lost = residual["file"] - residual["restored"]
    return f"{words}, {residual['file']:.4f} in the file: encoding changed it by {lost:+.4f}"


def measured(findings: Findings) -> str:
    if not findings.residuals:
        return "not given: nothing was computed again from y"
    same = {True: "the certified file", False: "another file with the same pictures", None: "certified by its pictures"}
    computed = fmean(findings.residuals)
    return f"{same[findings.same_measurement]}; computed again from y, the residual is {computed:.4f}"
