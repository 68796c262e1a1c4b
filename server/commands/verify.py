"""`avis verify`: whether a file is the one that a certificate was signed for, and whether it agrees with y."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import UsageError
from core.json_report import check_json, write_json
from server.certificates.certificate import Certificate, read_certificate, sidecar_of
from server.certificates.chain import Fault
from server.certificates.film import decoded
from server.certificates.hashes import file_record
from server.certificates.keys import raw, read_public
from server.commands import options
from server.commands.remeasure import Remeasured, check_header
from server.commands.verify_film import compare, of_size
from server.commands.verify_report import Findings, report, table
from server.files.paths import is_pipe, named, status

MADE = ": it is made with the file by `avis restore --certificate`, and --certificate SIDECAR names one elsewhere"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="the restored video, or folder of pictures")
    parser.add_argument(
        "--certificate", metavar="SIDECAR", type=Path, help="its certificate (default: FILE.avis.jsonl beside it)"
    )
    parser.add_argument(
        "--measurement", metavar="IN", type=Path, help="what was restored: y and the residuals are computed again"
    )
    parser.add_argument(
        "--key", metavar="PEM", type=Path, help="the public key that must have signed; without it, anybody may have"
    )
    parser.add_argument(
        "--pictures", action="store_true", help="judge the pictures alone: their file may have been packed anew"
    )
    options.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    check_json(args.json)
    sidecar = args.certificate or sidecar_of(args.file)
    for path, what in ((args.file, "a video to verify"), (sidecar, "its certificate"), (args.measurement, "y")):
        if path is not None and status(path) is None:
            raise UsageError(f"expected {what}, found no {named(path)}{MADE if path == sidecar else ''}")
        if path is not None and is_pipe(path):
            raise UsageError(f"expected {what} in a file, found {named(path)}, which can be read only once")
    findings = Findings(args.file, sidecar)
    try:
        judge(args, sidecar, findings)
    except Fault as fault:
        findings.fault = fault
    options.console(args.json).print(table(findings), soft_wrap=True)
    write_json(report(findings), args.json)
    return 1 if findings.fault else 0


def judge(args: argparse.Namespace, sidecar: Path, findings: Findings) -> None:
    """Raises Fault at the first thing that does not hold, and UsageError for what cannot be read."""
    wanted = raw(read_public(args.key)) if args.key else None
    certificate = read_sidecar(sidecar)
    findings.certificate = certificate
    if wanted is not None and wanted != certificate.header.public_key:
        raise Fault(f"another key signed it: expected {wanted}, found {certificate.header.public_key}")
    findings.signer_known = wanted is not None
    if args.measurement and certificate.header.reading is None:
        raise UsageError(
            "expected no --measurement for the recording of a live session: its y was not kept, and what was received "
            "has been encoded since"
        )
    findings.same_file = is_certified(args.file, certificate)
    check_pictures(args, certificate, findings)
    if not findings.same_file and not args.pictures:
        raise Fault(
            "the file is not the certified one: every picture is, so its container, its sound or its titles were "
            "changed; --pictures judges the pictures alone"
        )


def read_sidecar(path: Path) -> Certificate:
    try:
        with path.open("rb") as file:
            return read_certificate(file)
    except OSError as error:
        raise UsageError(f"expected a certificate in {named(path)}: {error.strerror}") from error


def is_certified(path: Path, certificate: Certificate) -> bool:
    """Whether the bytes of the file, or of the files of the folder, are the certified ones."""
    expected = certificate.end.file
    found = file_record(path)
    return (found.sha256, found.bytes) == (expected.sha256, expected.bytes)


def check_pictures(args: argparse.Namespace, certificate: Certificate, findings: Findings) -> None:
    """The pictures, and y where it is given: an operator is made ready for a size that they really have."""
    frames = decoded(args.file)
    if args.measurement:
        check_header(certificate.header)
        with blaming_the_file(findings):
            frames = of_size(frames, certificate.header.sizes)
    again = open_measurement(args.measurement, certificate, findings) if args.measurement else None
    try:
        with blaming_the_file(findings):
            compare(frames, certificate, again, findings)
    finally:
        if again:
            again.close()


@contextmanager
def blaming_the_file(findings: Findings) -> Iterator[None]:
    """What cannot be decoded of a file that is not the certified one, byte for byte, is a fault of the file."""
    try:
        yield
    except UsageError as error:
        if findings.same_file:
            raise
        raise Fault(f"the file is not the certified one: {error}") from error


def open_measurement(path: Path, certificate: Certificate, findings: Findings) -> Remeasured:
    found, expected = file_record(path), certificate.end.measurement
    findings.same_measurement = None if expected is None else found.sha256 == expected.sha256
    return Remeasured(path, certificate.header)
