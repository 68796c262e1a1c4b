"""Certificates of recordings: made while the file grows, and checked by the same `avis verify`."""

import json
import time

import pytest
from av import VideoFrame
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from core.contract import SolverConfig, TrustShares
from core.evaluation.bench import moving_scene
from core.operators.config import DenoiseConfig, GaussianBlurConfig
from server import cli
from server.certificates.live import Facts
from server.device.messages import Loaded
from server.media.recording import Recording
from server.sessions.certificates import certifier
from server.sessions.config import SessionConfig
from server.settings import Settings

FPS = 16
SCENE = moving_scene(60, 48, 64)


def facts(y, **changes):
    given = {"operator": DenoiseConfig(), "solver": SolverConfig(), "rung": "full", "residual": 0.01} | changes
    return Facts(y, (48, 64), **given)


def chunk(first, frames=12, **changes):
    """Times, received pixels and restored pictures of 12 frames, and what is known of them."""
    times = [100 + (first + n) / FPS for n in range(frames)]
    received = list(SCENE[first : first + frames])
    restored = [VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p") for pixels in received]
    return times, received, restored, facts(received, **changes)


@pytest.fixture
def certify(tmp_path):
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    settings = Settings(certificate_key=path)
    loaded = Loaded("tiny", "cpu", SolverConfig(), {"tiny.npz": "0" * 64}, "float32")
    return certifier(SessionConfig(operator={"kind": "denoise"}, fps=FPS), settings, lambda: loaded)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "recordings").mkdir()
    return tmp_path / "recordings"


def verify(capsys, path, *arguments):
    capsys.readouterr()
    code = cli.main(["verify", str(path), *map(str, arguments), "--json", "-"])
    output = capsys.readouterr()
    return code, json.loads(output.out) if output.out else output.err


def recorded(folder, certify, chunks, record="restored"):
    recording = Recording(folder, record, FPS, None, min_free=0, certify=certify)
    for given in chunks:
        recording.offer(*given)
    recording.stop()
    assert recording.error is None
    return recording, folder / f"{recording.name}.restored.mkv"


def wait_for(recording, frames):
    until = time.monotonic() + 30
    while recording.frames < frames and time.monotonic() < until:
        time.sleep(0.01)


def test_a_recording_is_certified_chunk_by_chunk(folder, certify, capsys):
    trust = TrustShares(measured=0.25, inferred=0.75, departs=0, lost=0)
    chunks = [
        chunk(0),
        chunk(12, trust=trust, guided=True),
        chunk(24, rung="passthrough", residual=None),
        chunk(36, operator=GaussianBlurConfig(), lost=(2,)),
    ]
    _, path = recorded(folder, certify, chunks, "both")
    code, found = verify(capsys, path)
    assert code == 0, found
    assert (found["chunks"], found["frames"], found["rungs"]) == (4, 48, {"full": 3, "passthrough": 1})
    assert found["trust"] == trust.model_dump() and found["residual"]["restored"] == 0.01
    lines = [json.loads(line) for line in path.with_name(path.name + ".avis.jsonl").read_text().splitlines()]
    assert lines[0]["model"]["weights"] == {"tiny.npz": "0" * 64}
    assert [line.get("operator") is None for line in lines[1:5]] == [True, True, True, False]
    assert lines[4]["lost"] == [2] and lines[1]["y"] != lines[2]["y"]
    assert cli.main(["verify", str(path)]) == 0
    assert "3 full, 1 passthrough" in capsys.readouterr().out


def test_what_is_written_so_far_is_signed_before_the_recording_ends(folder, certify):
    """A crash leaves what holds up to there. The encoder and the decoder hold some pictures back."""
    recording = Recording(folder, "restored", FPS, None, min_free=0, certify=certify)
    for _ in range(12):
        recording.offer(*chunk(0))
    path = folder / f"{recording.name}.restored.mkv.avis.jsonl"
    wait_for(recording, 144)
    lines = path.read_bytes().splitlines()
    recording.stop()
    assert len(lines) >= 5 and path.read_bytes().splitlines()[: len(lines)] == lines


def test_another_recording_is_refused(folder, certify, capsys):
    _, path = recorded(folder, certify, [chunk(0), chunk(12)])
    _, other = recorded(folder, certify, [chunk(0), chunk(24)])
    code, found = verify(capsys, other, "--certificate", path.with_name(path.name + ".avis.jsonl"))
    assert code == 1 and found["fault"]["what"].endswith("are not the certified ones")
    code, said = verify(capsys, path, "--measurement", other)
    assert code == 2 and "y was not kept" in said


def test_frames_that_arrive_at_once_keep_their_place_and_their_hash(folder, certify, capsys):
    times, *rest = chunk(0)
    _, path = recorded(folder, certify, [([100.0] * len(times), *rest), chunk(12)])
    assert verify(capsys, path)[0] == 0


def test_what_a_slow_disk_drops_is_dropped_by_whole_chunks(folder, certify, capsys, monkeypatch):
    monkeypatch.setattr("server.media.recording.WAITING", 30)
    recording, path = recorded(folder, certify, [chunk(12 * (n % 4)) for n in range(40)])
    assert recording.dropped and recording.dropped % 12 == 0 and recording.frames % 12 == 0
    code, found = verify(capsys, path)
    assert code == 0 and found["frames"] == recording.frames


def test_a_recording_without_a_picture_has_no_certificate(folder, certify):
    recorded(folder, certify, [])
    assert not list(folder.glob("*.jsonl"))


def test_a_recording_that_ends_early_says_so(folder, certify, capsys, monkeypatch):
    recording = Recording(folder, "restored", FPS, None, min_free=0, certify=certify)
    recording.offer(*chunk(0))
    wait_for(recording, 12)
    monkeypatch.setattr(recording, "_min_free", 1 << 60)
    for first in (12, 24, 36):
        recording.offer(*chunk(first))
    recording.stop()
    path = folder / f"{recording.name}.restored.mkv"
    assert recording.error and verify(capsys, path)[0] == 0
    assert "are left" in path.with_name(path.name + ".avis.jsonl").read_text().splitlines()[-1]


def test_only_a_server_with_a_key_certifies_and_only_what_was_measured():
    config = SessionConfig(operator={"kind": "denoise"})
    assert certifier(config, Settings(), lambda: None) is None
    simulated = config.model_copy(update={"mode": "simulate"})
    assert certifier(simulated, Settings().model_copy(update={"certificate_key": "key"}), lambda: None) is None


def test_a_server_does_not_start_with_a_key_that_is_none(tmp_path, capsys):
    (tmp_path / "key.pem").write_text("none")
    assert cli.main(["serve", "--certificate-key", str(tmp_path / "key.pem"), "--port", "0"]) == 2
    assert "expected an Ed25519 private key" in capsys.readouterr().err
