"""`avis restore --certificate` and `avis verify` on small files, with a small configuration of the real model."""

import json
import os
import shutil
import threading
import time

import av
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from core.evaluation.bench import moving_scene
from server import cli
from server.certificates import keys
from server.certificates.certificate import read_certificate, signed
from server.certificates.chain import Chain
from server.certificates.keys import public_pem
from server.certificates.records import Reading
from server.files.outputs import write_png
from tests.clips import write_clip

pytestmark = pytest.mark.usefixtures("loads", "own_keys")


@pytest.fixture
def own_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "FOLDER", tmp_path / "state")
    return tmp_path / "state"


def restore(source, target, *arguments, operator="denoise"):
    return cli.main(["restore", str(source), str(target), "--operator", operator, "--certificate", *arguments])


def verify(capsys, *arguments):
    """The exit code of `avis verify`, and its JSON."""
    capsys.readouterr()
    code = cli.main(["verify", *map(str, arguments), "--json", "-"])
    output = capsys.readouterr()
    return code, json.loads(output.out) if output.out else output.err


def sidecar(path):
    return path.with_name(path.name + ".avis.jsonl")


def write_with_sound(path):
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", 16, {"crf": "4"})
        video.height, video.width, video.pix_fmt = 32, 48, "yuv420p"
        sound = container.add_stream("aac", 16000, layout="mono")
        for i, pixels in enumerate(moving_scene(14, 32, 48)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1000 * i
            container.mux(sound.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "operator"),
    [("out.mp4", "denoise"), ("out.mkv", "temporal_average"), ("out.webm", "inpainting"), ("pictures", "denoise")],
)
def test_what_was_certified_is_valid_with_and_without_its_measurement(tmp_path, capsys, name, operator):
    source, target = write_clip(tmp_path / "in.mp4", 14, 32, 48), tmp_path / name
    assert restore(source, target, operator=operator) == 0
    code, found = verify(capsys, target)
    assert (code, found["valid"], found["chunks"], found["frames"]) == (0, True, 2, 14)
    assert found["residual"]["computed"] is None and not found["signer_known"] and found["same_file"]
    code, found = verify(capsys, target, "--measurement", source)
    assert code == 0 and found["same_measurement"] is True
    assert found["residual"]["computed"] == pytest.approx(found["residual"]["file"], rel=1e-3)


@pytest.mark.parametrize("operator", ["motion_blur", "spatio_temporal_average"])
def test_what_is_padded_and_enlarged_is_computed_again_alike(tmp_path, capsys, operator):
    source, target = write_clip(tmp_path / "in.mp4", 11, 18, 22), tmp_path / "out.mkv"
    assert restore(source, target, operator=operator) == 0
    code, found = verify(capsys, target, "--measurement", source)
    assert code == 0, found


def test_pictures_lose_next_to_nothing_and_an_encoder_loses_what_the_certificate_tells(tmp_path, capsys):
    source = write_clip(tmp_path / "in.mp4", 9, 32, 48)
    residuals = {}
    for name, crf in (("pictures", "16"), ("fine.mp4", "0"), ("coarse.mp4", "40")):
        assert restore(source, tmp_path / name, "--crf", crf) == 0
        residuals[name] = verify(capsys, tmp_path / name, "--measurement", source)[1]["residual"]
    assert residuals["pictures"]["file"] == pytest.approx(residuals["pictures"]["restored"], abs=2e-3)
    assert residuals["pictures"]["file"] < residuals["fine.mp4"]["file"] < residuals["coarse.mp4"]["file"]


def test_another_video_is_refused_and_says_where(tmp_path, capsys):
    source = write_clip(tmp_path / "in.mp4", 14, 32, 48)
    assert restore(source, tmp_path / "a.mp4") == 0
    assert restore(source, tmp_path / "b.mp4", "--crf", "30") == 0
    code, found = verify(capsys, tmp_path / "b.mp4", "--certificate", sidecar(tmp_path / "a.mp4"))
    assert code == 1 and found["fault"] == {"what": "pictures 0 to 8 are not the certified ones", "chunk": 0}
    shutil.copy(tmp_path / "b.mp4", tmp_path / "a.mp4")
    assert verify(capsys, tmp_path / "a.mp4")[0] == 1


def repack(source, target, keep=None, pace=1):
    """The packets of a video in another file, only the first `keep` of them, `pace` times as slow."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for number, packet in enumerate(old.demux()):
            if packet.dts is not None and (keep is None or number < keep):
                packet.pts, packet.dts = packet.pts * pace, packet.dts * pace
                packet.stream = streams[packet.stream.index]
                new.mux(packet)


def test_a_file_that_was_packed_anew_is_valid_only_where_pictures_alone_count(tmp_path, capsys):
    source, target = write_with_sound(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    assert restore(source, target) == 0
    repack(target, tmp_path / "other.mkv")
    args = (tmp_path / "other.mkv", "--certificate", sidecar(target))
    code, found = verify(capsys, *args)
    assert code == 1 and found["fault"]["what"].startswith("the file is not the certified one: every picture is")
    code, found = verify(capsys, *args, "--pictures", "--measurement", source)
    assert code == 0 and not found["same_file"]


def test_a_changed_sound_is_found(tmp_path, capsys):
    source, target = write_with_sound(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    assert restore(source, target) == 0
    data = bytearray(target.read_bytes())
    with av.open(str(target)) as container:
        at = next(packet.pos for packet in container.demux(audio=0) if packet.size > 4)
    data[at + 3] ^= 1
    target.write_bytes(data)
    assert verify(capsys, target)[1]["fault"]["what"].startswith("the file is not the certified one")


def test_a_file_that_was_cut_or_slowed_down_is_refused_by_its_pictures(tmp_path, capsys):
    source, target = write_clip(tmp_path / "in.mp4", 14, 32, 48), tmp_path / "out.mp4"
    assert restore(source, target) == 0
    repack(target, tmp_path / "short.mp4", keep=10)
    repack(target, tmp_path / "slow.mp4", pace=2)
    for name, why in (("short.mp4", "pictures "), ("slow.mp4", "off their certified times")):
        code, found = verify(capsys, tmp_path / name, "--certificate", sidecar(target), "--pictures")
        assert code == 1 and found["fault"]["chunk"] is not None and why in found["fault"]["what"]


def test_a_picture_that_is_exchanged_missing_or_one_too_many_is_named(tmp_path, capsys):
    source, target = write_clip(tmp_path / "in.mp4", 14, 32, 48), tmp_path / "pictures"
    assert restore(source, target) == 0
    kept = (target / "000010.png").read_bytes()
    write_png(target / "000010.png", np.zeros((32, 48, 3), np.uint8))
    assert verify(capsys, target)[1]["fault"] == {"what": "pictures 9 to 13 are not the certified ones", "chunk": 1}
    (target / "000010.png").write_bytes(kept)
    assert verify(capsys, target)[0] == 0
    shutil.copy(target / "000013.png", target / "000014.png")
    assert "more than the 14" in verify(capsys, target)[1]["fault"]["what"]
    (target / "000014.png").unlink()
    (target / "000013.png").unlink()
    assert "1 are missing" in verify(capsys, target)[1]["fault"]["what"]
    (target / "000013.png").write_text("no picture")
    assert "cannot be decoded" in verify(capsys, target)[1]["fault"]["what"]


def test_another_measurement_is_refused_and_says_where(tmp_path, capsys):
    source, target = write_clip(tmp_path / "in.mp4", 14, 32, 48), tmp_path / "out.mp4"
    assert restore(source, target) == 0
    cases = {"black.mkv": [*moving_scene(9, 32, 48), *np.zeros((5, 32, 48, 3), np.uint8)]}
    for name, pixels in cases.items():
        with av.open(str(tmp_path / name), "w") as container:
            video = container.add_stream("libx264", 16, {"crf": "4"})
            video.height, video.width, video.pix_fmt = 32, 48, "yuv420p"
            for picture in pixels:
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode(None))
    code, found = verify(capsys, target, "--measurement", tmp_path / "black.mkv")
    assert code == 1 and "its measurement is not the certified one" in found["fault"]["what"]
    repack(source, tmp_path / "same.mkv")
    code, found = verify(capsys, target, "--measurement", tmp_path / "same.mkv")
    assert code == 0 and found["same_measurement"] is False, "the same pictures in another file are the same y"
    repack(source, tmp_path / "short.mkv", keep=12)
    code, found = verify(capsys, target, "--measurement", tmp_path / "short.mkv")
    assert code == 1 and found["fault"]["chunk"] is not None


def test_a_residual_that_was_made_up_is_found(tmp_path, capsys):
    """Whoever signs can sign anything: with the measurement, the figures are computed again."""
    source, target = write_clip(tmp_path / "in.mp4", 9, 32, 48), tmp_path / "out.mp4"
    assert restore(source, target) == 0
    with sidecar(target).open("rb") as file:
        found = read_certificate(file)
    key = keys.signing_key(None, keys.FOLDER)
    better = found.chunks[0].model_copy(update={"residual_file": found.chunks[0].residual_file * 0.99})
    sidecar(target).write_bytes(b"".join(signed(key, [found.header, better, found.end])))
    assert verify(capsys, target)[0] == 0
    code, report = verify(capsys, target, "--measurement", source)
    assert code == 1 and report["fault"]["what"].startswith("the residual of the file's pictures is")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"operator": {"kind": "sharpen"}}, "operator is not known here"),
        ({"operator": {"kind": "super_resolution"}}, "sizes do not fit each other"),
        ({"operator": {"kind": "super_resolution", "scale": 3}}, "operator is not known here"),
        ({"sizes": {"restored": (40, 40)}}, "sizes do not fit each other"),
        ({"sizes": {"taken": (8000, 8000)}}, "sizes do not fit each other"),
        ({"sizes": {"shown": (8000, 8000)}}, "sizes do not fit each other"),
        ({"tool": "\x1b[2Jgone", "reading": {"deinterlace": True, "fps": "25"}}, "--fps is the rate of a folder"),
    ],
)
def test_what_a_stranger_signed_asks_for_nothing_that_does_not_fit(tmp_path, capsys, changes, why):
    source, target = write_clip(tmp_path / "in.mp4", 9, 32, 48), tmp_path / "out.mp4"
    assert restore(source, target) == 0
    with sidecar(target).open("rb") as file:
        found = read_certificate(file)
    if "sizes" in changes:
        changes = {"sizes": found.header.sizes.model_copy(update=changes["sizes"])}
    if "reading" in changes:
        changes = changes | {"reading": Reading(**changes["reading"])}
    key = keys.signing_key(None, keys.FOLDER)
    header = found.header.model_copy(update=changes)
    sidecar(target).write_bytes(b"".join(signed(key, [header, *found.chunks, found.end])))
    code, said = verify(capsys, target, "--measurement", source)
    assert code == 2 and why in said
    assert cli.main(["verify", str(target)]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("words", ["\x1b[2J\r\u202e" * 3, "\x1b" * 20_000])
def test_the_words_of_a_stranger_are_shown_printable_and_in_bearable_length(tmp_path, capsys, words):
    """Escape codes of a version went to the terminal, and 11 MB of warnings took two minutes to show."""
    target = tmp_path / "out.mp4"
    assert restore(write_clip(tmp_path / "in.mp4", 9, 32, 48), target) == 0
    with sidecar(target).open("rb") as file:
        found = read_certificate(file)
    key = keys.signing_key(None, keys.FOLDER)
    header = found.header.model_copy(update={"made": words, "tool": words})
    end = found.end.model_copy(update={"warnings": (words,) * 9})
    sidecar(target).write_bytes(b"".join(signed(key, [header, *found.chunks, end])))
    assert cli.main(["verify", str(target)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\r" not in out and len(out) < 40_000
    sidecar(target).write_bytes(Chain(key).line(header.model_dump(mode="json") | {"version": words}))
    assert cli.main(["verify", str(target)]) == 2
    assert "\x1b" not in (err := capsys.readouterr().err) and err.count("\n") == 1


def test_a_size_that_the_pictures_do_not_have_is_refused_before_anything_is_computed(tmp_path, capsys):
    """A blur of 8192x8192, named beside a clip of 48x32, was made ready for minutes."""
    source, target = write_clip(tmp_path / "in.mp4", 9, 32, 48), tmp_path / "out.mp4"
    assert restore(source, target) == 0
    with sidecar(target).open("rb") as file:
        found = read_certificate(file)
    side, key = (8192, 8192), keys.signing_key(None, keys.FOLDER)
    update = {"taken": side, "fed": side, "restored": side, "shown": side, "scaled": None}
    header = found.header.model_copy(
        update={
            "operator": {"kind": "gaussian_blur", "sigma": 7.0},
            "sizes": found.header.sizes.model_copy(update=update),
        }
    )
    sidecar(target).write_bytes(b"".join(signed(key, [header, *found.chunks, found.end])))
    start = time.thread_time()
    code, said = verify(capsys, target, "--measurement", source)
    assert code == 1 and "are 48x32, certified are 8192x8192" in said["fault"]["what"]
    assert time.thread_time() - start < 5


def test_y_that_came_through_a_pipe_is_certified_by_its_pictures(tmp_path, capsys, monkeypatch):
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    repack(write_clip(tmp_path / "in.mp4", 9, 32, 48), source)
    os.mkfifo(tmp_path / "pipe.mkv")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe.mkv").write_bytes(source.read_bytes()))
    writer.start()
    assert restore(tmp_path / "pipe.mkv", target) == 0
    writer.join()
    code, found = verify(capsys, target, "--measurement", source)
    assert code == 0 and found["same_measurement"] is None
    assert found["residual"]["file"] is None and found["residual"]["computed"] > 0
    code, said = verify(capsys, target, "--measurement", tmp_path / "pipe.mkv")
    assert code == 2 and "can be read only once" in said


def test_a_key_says_who_signed(tmp_path, capsys):
    source, target = write_clip(tmp_path / "in.mp4", 9, 32, 48), tmp_path / "out.mp4"
    ours, theirs = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    private = tmp_path / "key.pem"
    private.write_bytes(ours.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for name, key in (("ours", ours), ("theirs", theirs)):
        (tmp_path / f"{name}.pem").write_bytes(public_pem(key.public_key()))
    assert restore(source, target, "--certificate-key", str(private)) == 0
    code, found = verify(capsys, target, "--key", tmp_path / "ours.pem")
    assert code == 0 and found["signer_known"]
    code, found = verify(capsys, target, "--key", tmp_path / "theirs.pem")
    assert code == 1 and found["fault"]["what"].startswith("another key signed it")
    assert not (tmp_path / "state").exists()
    code, found = verify(capsys, target, "--key", private)
    assert code == 2 and "found a private one" in found


def test_bad_input_is_told_in_one_sentence(tmp_path, capsys):
    source, target = write_clip(tmp_path / "in.mp4", 9, 32, 48), tmp_path / "out.mp4"
    assert restore(source, target) == 0
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "half").write_bytes(sidecar(target).read_bytes()[:1000])
    for args, code, why in [
        ((tmp_path / "absent.mp4",), 2, "expected a video to verify, found no"),
        ((tmp_path / "text.mp4",), 2, "expected its certificate, found no"),
        ((tmp_path / "text.mp4",), 2, "is made with the file by `avis restore --certificate`"),
        ((tmp_path / "text.mp4", "--certificate", sidecar(target)), 1, "the file is not the certified one: expected a"),
        ((target, "--certificate", tmp_path / "empty"), 1, "the certificate is empty"),
        ((target, "--certificate", tmp_path / "half"), 1, "line 1 is cut off"),
        ((target, "--certificate", target), 1, "line 1 is"),
        ((target, "--certificate", tmp_path), 2, "Is a directory"),
        ((target, "--measurement", tmp_path / "text.mp4"), 2, "expected a video or a picture"),
        ((target, "--measurement", tmp_path / "absent"), 2, "expected y, found no"),
        ((target, "--key", tmp_path / "text.mp4"), 2, "found none"),
    ]:
        found, said = verify(capsys, *args)
        assert found == code and why in (said if code == 2 else said["fault"]["what"]), (args, said)


def test_the_table_tells_the_fault_and_what_a_certificate_means(tmp_path, capsys):
    source, target = write_clip(tmp_path / "in.mp4", 9, 32, 48), tmp_path / "out.mp4"
    assert restore(source, target) == 0
    capsys.readouterr()
    assert cli.main(["verify", str(target), "--measurement", str(source)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "verdict valid" in said and "does not say that they are true" in said and "without --key" in said
    sidecar(target).write_bytes(b"")
    assert cli.main(["verify", str(target)]) == 1
    assert "not valid: the certificate is empty" in capsys.readouterr().out


def test_a_certificate_is_refused_where_it_would_say_nothing(tmp_path, capsys):
    source = write_clip(tmp_path / "in.mp4", 9, 32, 48)
    assert restore(source, tmp_path / "out.mp4", "--simulate") == 2
    assert "nothing was measured" in capsys.readouterr().err
    assert restore(source, "-") == 2
    assert "found standard output" in capsys.readouterr().err
    assert cli.main(["restore", str(source), "a.mp4", "--operator", "denoise", "--certificate-key", "x"]) == 2
    assert "goes with --certificate" in capsys.readouterr().err
    sidecar(tmp_path / "out.mp4").write_text("kept")
    assert restore(source, tmp_path / "out.mp4") == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert restore(source, tmp_path / "out.mp4", "--overwrite") == 0
    assert verify(capsys, tmp_path / "out.mp4")[0] == 0


def test_a_batch_certifies_each_file_and_goes_on_after_a_break(tmp_path, capsys):
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, 9, 32, 48)
    batch = ["restore", str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), "--operator", "denoise", "--out-dir"]
    out = tmp_path / "out"
    assert cli.main([*batch, str(out), "--certificate"]) == 0
    (out / "b.mp4").unlink()
    sidecar(out / "b.mp4").unlink()
    assert cli.main([*batch, str(out), "--certificate"]) == 0
    assert "1 restored, 1 done before" in capsys.readouterr().out
    for name in ("a.mp4", "b.mp4"):
        assert verify(capsys, out / name, "--measurement", tmp_path / name)[0] == 0
    sidecar(out / "b.mp4").unlink()
    assert cli.main([*batch, str(out), "--certificate"]) == 1, "what is there without a certificate is not done"
    assert "--overwrite replaces it" in capsys.readouterr().out


def test_a_restoration_that_fails_leaves_neither_file_nor_certificate(tmp_path, monkeypatch):
    source = write_clip(tmp_path / "in.mp4", 9, 32, 48)
    monkeypatch.setattr("server.commands.certify.Witness._chunk", lambda *given: 1 / 0)
    assert restore(source, tmp_path / "out.mp4") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "state"]


def test_a_source_that_changed_meanwhile_is_not_certified(tmp_path, capsys, monkeypatch):
    source = write_clip(tmp_path / "in.mp4", 9, 32, 48)
    monkeypatch.setattr("server.commands.remeasure.fill", lambda chunk, *given: np.zeros((9, 32, 48, 3), np.uint8))
    assert restore(source, tmp_path / "out.mp4") == 2
    assert "changed while it was restored" in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists() and not sidecar(tmp_path / "out.mp4").exists()
