"""Certificates: whatever is done to one, it is found. Properties of the real classes on a small certificate."""

import io
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from core.contract import SolverConfig, TrustShares
from core.errors import UsageError
from server.certificates.certificate import read_certificate, signed
from server.certificates.chain import Chain, Fault
from server.certificates.keys import raw
from server.certificates.records import ChunkRecord, End, FileRecord, Header, ModelRecord, Reading, Sizes

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
HASH = "0123456789abcdef" * 4
SIZE = (16, 16)


def header(key=KEY):
    return Header(
        public_key=raw(key.public_key()),
        made="2026-01-01T00:00:00+00:00",
        tool="avis-server",
        libraries={"av": "18.1.0"},
        model=ModelRecord(name="tiny", codec=None, device="cpu", backend="float32", settings={}, weights={"a": HASH}),
        sizes=Sizes(taken=SIZE, fed=SIZE, restored=SIZE, shown=SIZE, scaled=None),
        rate="16",
        latency="normal",
        operator={"kind": "denoise", "noise": 0.01},
        solver=SolverConfig().model_dump(),
        seed=0,
        reading=Reading(deinterlace=True, fps=None),
    )


def chunk(index):
    return ChunkRecord(
        chunk=index,
        first=0 if index == 0 else 9 + 12 * (index - 1),
        frames=9 if index == 0 else 12,
        shown=(0.0, 0.5),
        y=HASH,
        restored=HASH,
        decoded=HASH,
        rung="full",
        guided=index == 0,
        residual=0.01,
        residual_file=0.02,
        trust=TrustShares(measured=0.5, inferred=0.5, departs=0, lost=0),
    )


def records(chunks=3):
    end = End(
        chunks=chunks,
        frames=9 + 12 * (chunks - 1),
        file=FileRecord(name="out.mp4", sha256=HASH, bytes=1),
        measurement=None,
        damaged=0,
        warnings=(),
    )
    return [header(), *map(chunk, range(chunks)), end]


LINES = list(signed(KEY, records()))
WHOLE = b"".join(LINES)


def fault(data):
    with pytest.raises(Fault) as found:
        read_certificate(io.BytesIO(data))
    return found.value


def test_what_was_signed_is_read_back():
    found = read_certificate(io.BytesIO(WHOLE))
    assert [found.header, *found.chunks, found.end] == records()


@pytest.mark.parametrize("change", [0x01, 0x20, 0x80])
def test_every_changed_byte_is_found(change):
    for at in range(len(WHOLE)):
        data = bytearray(WHOLE)
        data[at] ^= change
        fault(bytes(data))


def test_every_length_that_it_is_cut_to_is_found():
    for length in range(len(WHOLE)):
        fault(WHOLE[:length])


def test_a_changed_chunk_is_named():
    found = fault(WHOLE.replace(b'"chunk":1,"first":9,"frames":12', b'"chunk":1,"first":9,"frames":11'))
    assert found.chunk == 1 and found.what == "line 3 was changed: its signature does not fit (chunk 1)"


@pytest.mark.parametrize("gone", range(len(LINES)))
def test_a_line_that_is_missing_is_found(gone):
    fault(b"".join(LINES[:gone] + LINES[gone + 1 :]))


@pytest.mark.parametrize("at", range(len(LINES)))
def test_a_line_that_stands_twice_is_found(at):
    fault(b"".join(LINES[: at + 1] + LINES[at:]))


@pytest.mark.parametrize("first", range(len(LINES)))
@pytest.mark.parametrize("second", range(len(LINES)))
def test_lines_that_changed_places_are_found(first, second):
    lines = list(LINES)
    lines[first], lines[second] = lines[second], lines[first]
    if first != second:
        fault(b"".join(lines))


def test_a_cut_end_says_after_which_chunk():
    assert fault(b"".join(LINES[:-1])).what.endswith("its last line is missing, after 3 chunks")


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(WHOLE)), drop=st.integers(0, 400), insert=st.binary(max_size=60))
def test_whatever_is_put_in_the_place_of_anything_is_found(at, drop, insert):
    data = WHOLE[:at] + insert + WHOLE[at + drop :]
    if data != WHOLE:
        fault(data)


def test_a_line_of_another_certificate_of_the_same_key_is_found():
    other = records()
    other[0] = header().model_copy(update={"made": "2026-01-02T00:00:00+00:00"})
    foreign = list(signed(KEY, other))
    for at in range(len(LINES)):
        fault(b"".join([*LINES[:at], foreign[at], *LINES[at + 1 :]]))


def test_lines_signed_by_another_key_are_found():
    other = Ed25519PrivateKey.generate()
    foreign = list(signed(other, records()))  # its header still names KEY
    fault(b"".join(foreign))
    fault(b"".join([LINES[0], *foreign[1:]]))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda found: found.pop(2), "expected chunk 1"),
        (lambda found: found.insert(2, chunk(1)), "expected chunk 2"),
        (lambda found: found.pop(), "cut off"),
        (lambda found: found.append(chunk(3)), "lines after the last"),
        (lambda found: found.pop(0), "first line"),
        (lambda found: found.__setitem__(-1, found[-1].model_copy(update={"chunks": 4})), "counts 4 chunks"),
        (lambda found: found.__setitem__(1, found[1].model_copy(update={"y": "?"})), "y: "),
    ],
)
def test_a_signed_certificate_must_be_whole_too(change, why):
    """A key of one's own signs anything: what is signed must still make sense."""
    found = records()
    change(found)
    assert why in fault(b"".join(signed(KEY, found))).what


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\n", "line 1 is no signed line"),
        (b"{}\n", "no signed line"),
        (b"\x00\xff" * 50, "cut off"),
        (b"[" * 100_000 + b',"signature":"' + b"0" * 128 + b'"}\n', "no signed line"),
        (b'{"a":' * 100_000 + b',"signature":"' + b"0" * 128 + b'"}\n', "no JSON"),
        (b'{"public_key":7,"signature":"' + b"0" * 128 + b'"}\n', "names no public key"),
    ],
)
def test_what_is_no_certificate_is_refused_with_a_reason(data, why):
    assert why in fault(data).what


@pytest.mark.parametrize(
    ("operator", "why"),
    [
        ('"\\ud800"', "surrogates not allowed"),
        ("[" * 300 + "]" * 300, "within each other"),
        ("[" + "{}," * 100_000 + "{}]", "more than 5000 values"),
        ("{" + ",".join(f'"{i}":0' for i in range(300)) + "}", "300 names"),
    ],
)
def test_what_could_not_be_reported_again_is_refused_whoever_signed_it(operator, why):
    """`avis verify --json` ended with a traceback at half a surrogate pair, and at 300 arrays within each other."""
    body = json.dumps(header().model_dump(mode="json") | {"operator": "@"}).replace('"@"', f'{{"kind":{operator}}}')
    line = body.encode()[:-1] + b',"signature":"' + KEY.sign(body.encode()).hex().encode() + b'"}\n'
    assert why in fault(line + WHOLE).what


def test_another_version_is_not_judged():
    fields = header().model_dump(mode="json") | {"version": 2}
    with pytest.raises(UsageError, match="version 2, which this avis cannot judge"):
        read_certificate(io.BytesIO(Chain(KEY).line(fields)))
    fields = header().model_dump(mode="json") | {"format": "another"}
    assert "expected the format" in fault(Chain(KEY).line(fields)).what


def test_each_line_is_json_for_other_programs():
    for line in LINES:
        fields = json.loads(line)
        body = line[: -len(',"signature":""}\n') - 128] + b"}"
        KEY.public_key().verify(bytes.fromhex(fields["signature"]), body)
