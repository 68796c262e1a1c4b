"""Files in and out: times, sizes, colours and sound arrive as they were, and nothing half-written stays."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from core.chunks import ChunkSpec
from core.errors import UsageError
from server.files.geometry import centred, resize
from server.files.inputs import in_chunks, open_source, read_clip, read_picture
from server.files.outputs import check_output, open_sink, write_png
from server.files.source import Extras, Picture


def scene(count, height=48, width=64, seed=0):
    """A smooth picture that moves: it survives compression."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (height // 8 + 2, width // 8 + 2 + count, 1)).astype(np.uint8).repeat(3, axis=2)
    coarse[..., 2] //= 2  # not quite grey
    big = resize(coarse, coarse.shape[0] * 8, coarse.shape[1] * 8)
    return [big[:height, 2 * i : 2 * i + width].copy() for i in range(count)]


def write_video(path, pictures, pts=None, time_base=Fraction(1, 16), audio=False, rotation=0, codec="libx264"):
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, Fraction(16), {"crf": "4"} if codec == "libx264" else {})
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = time_base
        if rotation:
            video.set_display_rotation(rotation)
        sound = container.add_stream("aac", 16000, layout="mono") if audio else None
        for i, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (i if pts is None else pts[i]), time_base
            container.mux(video.encode(frame))
            if sound:
                container.mux(sound.encode(tone(i)))
        container.mux(video.encode(None))
        if sound:
            container.mux(sound.encode(None))


def tone(i, samples=1000, rate=16000):
    wave = np.sin(2 * np.pi * 440 * (np.arange(samples) + i * samples) / rate) * 0.3
    frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, i * samples, Fraction(1, rate)
    return frame


def audio_packets(path):
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.audio[0]) if p.dts is not None]
    start = times(path)[0]  # a container may shift all its streams together
    return [(float(p.pts * p.time_base) - start, bytes(p)) for p in packets]


def times(path):
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def copy(source, target, no_audio=False):
    """Reads everything and writes it unchanged."""
    check_output(source, target)
    opened = open_source(source)
    with open_sink(target, opened.about, Extras() if no_audio else opened.extras) as sink:
        size = opened.about.height, opened.about.width
        for picture in opened.pictures(size, (lambda packet: None) if no_audio else sink.carry):
            sink.write(picture)
    opened.close()
    return opened


def error_of(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean()


def test_a_copied_video_keeps_every_picture_and_its_time(tmp_path):
    pictures = scene(20)
    write_video(tmp_path / "in.mp4", pictures)
    copy(tmp_path / "in.mp4", tmp_path / "out.mkv")
    assert times(tmp_path / "out.mkv") == pytest.approx([i / 16 for i in range(20)], abs=2e-3)
    assert error_of(read_clip(tmp_path / "out.mkv", (48, 64), None), np.stack(pictures)) < 4


def test_a_variable_frame_rate_keeps_its_timestamps(tmp_path):
    pts = [0, 40, 41, 300, 310, 900, 1000, 2500]
    write_video(tmp_path / "in.mp4", scene(8), pts, Fraction(1, 1000))
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert times(tmp_path / "out.mp4") == pytest.approx([p / 1000 for p in pts], abs=1e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_audio_is_carried_over_byte_for_byte(tmp_path, suffix):
    write_video(tmp_path / "in.mp4", scene(40), audio=True)
    copy(tmp_path / "in.mp4", tmp_path / f"out.{suffix}")
    before, after = audio_packets(tmp_path / "in.mp4"), audio_packets(tmp_path / f"out.{suffix}")
    assert len(before) > 30
    assert [data for _, data in after] == [data for _, data in before]
    assert [t for t, _ in after] == pytest.approx([t for t, _ in before], abs=2e-3)


def test_audio_that_the_container_cannot_hold_is_refused_and_nothing_stays(tmp_path):
    write_video(tmp_path / "in.mp4", scene(12), audio=True)
    with pytest.raises(UsageError, match="webm file cannot carry the source's aac audio"):
        copy(tmp_path / "in.mp4", tmp_path / "out.webm")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]
    copy(tmp_path / "in.mp4", tmp_path / "out.webm", no_audio=True)
    assert len(times(tmp_path / "out.webm")) == 12


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_rotated_video_comes_upright(tmp_path, rotation):
    pictures = scene(9, height=48, width=80)
    write_video(tmp_path / "in.mp4", pictures, rotation=rotation)
    source = open_source(tmp_path / "in.mp4")
    upright = np.rot90(pictures[0], rotation // 90)
    assert (source.about.height, source.about.width) == upright.shape[:2]
    assert error_of(read_picture(tmp_path / "in.mp4"), upright) < 4


def test_an_odd_size_is_kept_in_pictures_and_padded_by_one_in_video(tmp_path):
    (tmp_path / "in").mkdir()
    pictures = scene(3, height=35, width=51)
    for i, pixels in enumerate(pictures):
        write_png(tmp_path / "in" / f"{i}.png", pixels)
    copy(tmp_path / "in", tmp_path / "out")
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == [
        "000000.png",
        "000001.png",
        "000002.png",
    ]
    assert np.array_equal(read_picture(tmp_path / "out" / "000002.png"), pictures[2])
    copy(tmp_path / "in", tmp_path / "out.mp4")
    assert read_picture(tmp_path / "out.mp4").shape == (36, 52, 3)


def test_pictures_are_taken_in_the_order_of_their_numbers(tmp_path):
    for i in (10, 9, 1):
        write_png(tmp_path / f"shot{i}.png", np.full((16, 16, 3), i, np.uint8))
    shown = open_source(tmp_path).pictures((16, 16), lambda packet: None)
    assert [int(p.pixels[0, 0, 0]) for p in shown] == [1, 9, 10]


def test_a_folder_of_different_sizes_is_refused_by_name(tmp_path):
    write_png(tmp_path / "1.png", np.zeros((16, 16, 3), np.uint8))
    write_png(tmp_path / "2.png", np.zeros((16, 20, 3), np.uint8))
    with pytest.raises(UsageError, match=r"1\.png is 16x16, 2\.png is 20x16"):
        list(open_source(tmp_path).pictures((16, 16), lambda packet: None))


@pytest.mark.parametrize("space", [1, 6])
def test_colours_and_their_labels_survive(tmp_path, space):
    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        video = container.add_stream("libx264", 16, {"crf": "0"})
        video.width, video.height, video.pix_fmt = 32, 32, "yuv444p"
        video.codec_context.colorspace = space
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), (200, 30, 90), np.uint8), format="rgb24")
        container.mux(video.encode(frame.reformat(format="yuv444p", dst_colorspace=space)))
        container.mux(video.encode(None))
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    for name in ("in.mp4", "out.mp4"):
        assert read_picture(tmp_path / name)[16, 16].tolist() == pytest.approx([200, 30, 90], abs=3)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].colorspace == space


@pytest.mark.parametrize("name", ["out.mp4", "out", "out.png"])
def test_an_error_leaves_no_file_and_an_old_one_as_it_was(tmp_path, name):
    target = tmp_path / name
    if target.suffix:
        target.write_bytes(b"old")
    about = open_source_of(tmp_path, scene(4))
    with pytest.raises(RuntimeError, match="torn"), open_sink(target, about) as sink:
        sink.write(Picture(scene(1)[0], 0))
        raise RuntimeError("torn")
    assert not target.suffix or target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({"in.mkv"} | ({name} if target.suffix else set()))


def open_source_of(folder, pictures):
    write_video(folder / "in.mkv", pictures)
    source = open_source(folder / "in.mkv")
    source.close()
    return source.about


def test_a_damaged_packet_is_left_out_and_counted(tmp_path):
    pictures = scene(12)
    with av.open(str(tmp_path / "bad.mov"), "w") as container:
        video = container.add_stream("png", 16)
        video.height, video.width, video.pix_fmt = 48, 64, "rgb24"
        for i, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = i
            for packet in video.encode(frame):
                torn = av.Packet(b"torn" * 50) if packet.pts == 5 else packet
                torn.stream, torn.pts, torn.dts, torn.time_base = (
                    video,
                    packet.pts,
                    packet.dts,
                    packet.time_base,
                )
                container.mux(torn)
        container.mux(video.encode(None))
    assert copy(tmp_path / "bad.mov", tmp_path / "out.mkv").damaged == 1
    expected = [i / 16 for i in range(12) if i != 5]
    assert times(tmp_path / "out.mkv") == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("none.mp4", None, "No such file"),
        ("empty.mp4", b"", "found none"),
        ("words.txt", b"hello\n" * 500, "found text"),
        ("noise.mp4", bytes(range(256)) * 40, "found none"),
    ],
)
def test_what_is_no_video_is_refused_in_one_sentence(tmp_path, name, content, found):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=found) as caught:
        open_source(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_sound_without_a_picture_is_refused(tmp_path):
    with av.open(str(tmp_path / "in.m4a"), "w", format="mp4") as container:
        sound = container.add_stream("aac", 16000, layout="mono")
        container.mux([*sound.encode(tone(0)), *sound.encode(None)])
    with pytest.raises(UsageError, match=r"expected a video in .* found only audio"):
        open_source(tmp_path / "in.m4a")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("in.mp4", "for both"),
        ("out.avi", "end in"),
        ("nowhere/out.mp4", "existing folder"),
        ("full", "files in"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_work_begins(tmp_path, name, why):
    (tmp_path / "in.mp4").write_bytes(b"x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"x")
    with pytest.raises(UsageError, match=why):
        check_output(tmp_path / "in.mp4", tmp_path / name)


def test_pictures_fall_into_chunks_of_9_and_then_12():
    pictures = (Picture(np.zeros((1, 1, 3), np.uint8), i) for i in range(40))
    chunks = list(in_chunks(pictures, ChunkSpec()))
    assert [len(c) for c in chunks] == [9, 12, 12, 7]
    assert [p.pts for c in chunks for p in c] == list(range(40))


def test_halving_is_an_exact_area_average():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    expected = np.rint(pixels.reshape(4, 2, 6, 2, 3).astype(float).mean(axis=(1, 3)))
    assert np.array_equal(resize(pixels, 4, 6), expected)


def test_the_centred_part_has_the_asked_shape():
    assert centred(480, 832, 240, 416) == (0, 0, 480, 832)
    assert centred(1080, 1920, 100, 100) == (0, 420, 1080, 1080)
    assert centred(1920, 1080, 240, 416) == (648, 0, 623, 1080)


def test_no_path_of_the_temporary_file_survives(tmp_path):
    write_video(tmp_path / "in.mp4", scene(9))
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert sorted(p.name for p in Path(tmp_path).iterdir()) == ["in.mp4", "out.mp4"]


def test_a_raised_digit_in_a_name_is_no_number(tmp_path):
    """int() does not read it, and the folder ended in a traceback."""
    for name in ("a1²2.png", "a10.png", "a9.png"):
        write_png(tmp_path / name, np.zeros((16, 16, 3), np.uint8))
    assert open_source(tmp_path).about.length == 3
