"""What travels beside the pictures arrives, or is named; what a muxer refuses is refused before the work."""

from fractions import Fraction

import av
import numpy as np
import pytest

from core.errors import UsageError
from server.files.inputs import open_source
from server.files.outputs import open_sink
from server.files.source import Extras

HFLIP = (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)


def make(path, frames=24, sound=("aac",), languages=(), text=None, size=(48, 64), matrix=None, options=None, late=0.0):
    """A small video with tracks of sound and subtitles; pictures start `late` seconds after the sound."""
    with av.open(str(path), "w", container_options=options or {}) as container:
        video = container.add_stream("libx264", 16, {"crf": "10"})
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        if matrix:
            video.set_display_matrix(matrix)
        tracks = [container.add_stream(codec, 48000 if codec == "libopus" else 16000, layout="mono") for codec in sound]
        for track, language in zip(tracks, languages, strict=False):
            track.metadata["language"] = language
        if len(tracks) > 1:
            tracks[1].disposition = av.stream.Disposition.default
        container.metadata["title"] = "My film"
        subtitles = container.add_stream(text) if text else None
        if subtitles:
            subtitles.codec_context.subtitle_header = HEADER
            subtitles.time_base = Fraction(1, 1000)
            container.set_chapters(
                [
                    {
                        "id": i,
                        "start": 500 * i,
                        "end": 500 * i + 500,
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": t},
                    }
                    for i, t in enumerate(("One", "Two"))
                ]
            )
        for i in range(frames):
            pixels = np.full((*size, 3), 40, np.uint8)
            pixels[8:24, 2 * i : 2 * i + 16] = (220, 80, 40)
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = i + round(16 * late), Fraction(1, 16)
            container.mux(video.encode(picture))
            for track in tracks:
                container.mux(track.encode(tone(i, track.rate)))
        if subtitles:
            said = av.subtitles.subtitle.SubtitleSet.create(b"0,0,Default,,0,0,0,,Hello", 0, 800)
            packet = subtitles.codec_context.encode_subtitle(said)
            packet.stream, packet.time_base, packet.pts, packet.dts, packet.duration = (
                subtitles,
                Fraction(1, 1000),
                100,
                100,
                800,
            )
            container.mux(packet)
        for stream in (video, *tracks):
            container.mux(stream.encode(None))
    return path


HEADER = b"[Script Info]\r\nScriptType: v4.00+\r\n\r\n[Events]\r\nFormat: Layer, Start, End, Style, Text\r\n\r\n"


def tone(i, rate):
    samples = rate // 16
    wave = np.sin(2 * np.pi * 440 * (np.arange(samples) + i * samples) / rate) * 0.3
    frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, i * samples, Fraction(1, rate)
    return frame


def copied(source, target, transcode=False):
    """Reads everything, writes it unrestored; returns what was said of it."""
    opened = open_source(source)
    try:
        with open_sink(target, opened.about, opened.extras, 10, transcode) as sink:
            for picture in opened.pictures((opened.about.height, opened.about.width), sink.carry):
                sink.write(picture)
        return [*opened.notes, *sink.notes, *opened.warnings]
    finally:
        opened.close()


def times(path):
    """Of each stream the times of its packets, in seconds."""
    with av.open(str(path)) as container:
        found = {stream.index: [] for stream in container.streams}
        for packet in container.demux():
            if packet.size and packet.pts is not None:
                found[packet.stream.index].append(float(packet.pts * packet.time_base))
    return {index: sorted(each) for index, each in found.items()}


def streams(path):
    with av.open(str(path)) as container:
        return [
            (s.type, s.codec_context.codec.canonical_name, s.metadata.get("language"), int(s.disposition) & 1)
            for s in container.streams
            if s.codec_context
        ]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_transport_stream_starts_at_zero(tmp_path, suffix):
    """Its clock starts at 1.4 s, or at 20 h: the output began with nothing, or lasted 20 h."""
    for offset in (1.4, 72000):
        source = make(tmp_path / f"{offset}.ts", options={"output_ts_offset": str(offset)})
        copied(source, tmp_path / f"{offset}.{suffix}")
        before, after = times(source), times(tmp_path / f"{offset}.{suffix}")
        assert min(before[0][0], before[1][0]) > 1
        assert min(after[0][0], after[1][0]) == pytest.approx(0, abs=0.07)
        assert after[1][0] - after[0][0] == pytest.approx(before[1][0] - before[0][0], abs=0.002)


def test_pictures_that_start_late_stay_late(tmp_path):
    source = make(tmp_path / "in.mkv", late=0.5)
    copied(source, tmp_path / "out.mp4")
    before, after = times(source), times(tmp_path / "out.mp4")
    assert after[0][0] - after[1][0] == pytest.approx(before[0][0] - before[1][0], abs=0.002)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_joined_recordings_follow_each_other(tmp_path, suffix):
    """They ended in a traceback: the second one's times fall back."""
    make(tmp_path / "one.ts")
    (tmp_path / "in.ts").write_bytes((tmp_path / "one.ts").read_bytes() * 2)
    copied(tmp_path / "in.ts", tmp_path / f"out.{suffix}")
    after = times(tmp_path / f"out.{suffix}")
    assert len(after[0]) == 48
    for track in after.values():
        gaps = np.diff(track)
        assert (gaps > 0).all() and gaps.max() < 0.2
    assert after[0][24] - after[0][0] == pytest.approx(1.5, abs=0.1)
    assert abs((after[0][-1] - after[0][0]) - (after[1][-1] - after[1][0])) < 0.15


def test_a_sound_packet_with_the_time_of_its_predecessor_is_carried(tmp_path):
    with av.open(str(make(tmp_path / "in.mkv"))) as source, av.open(str(tmp_path / "dup.mkv"), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams.audio}
        video = source.streams.video[0]
        streams[video.index] = target.add_stream_from_template(video, opaque=True)
        held = None
        for packet in source.demux():
            if not packet.size:
                continue
            if packet.stream.type == "audio":
                if held is not None and packet.pts % 3 == 0:
                    packet.pts = packet.dts = held
                held = packet.pts
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    copied(tmp_path / "dup.mkv", tmp_path / "out.mp4")
    assert (np.diff(times(tmp_path / "out.mp4")[1]) > 0).all()


def test_languages_flags_and_the_title_survive(tmp_path):
    source = make(tmp_path / "in.mp4", sound=("aac", "aac"), languages=("eng", "fra"))
    for suffix in ("mp4", "mkv", "mov"):
        copied(source, tmp_path / f"out.{suffix}")
        assert [(kind, language, default) for kind, _, language, default in streams(tmp_path / f"out.{suffix}")][
            1:
        ] == [
            ("audio", "eng", 0),
            ("audio", "fra", 1),
        ]
        with av.open(str(tmp_path / f"out.{suffix}")) as container:
            assert container.metadata["title"] == "My film"


@pytest.mark.parametrize(
    ("suffix", "codec", "note"),
    [("mkv", "subrip", ""), ("mp4", "mov_text", "became mov_text"), ("webm", "webvtt", "webvtt")],
)
def test_subtitles_and_chapters_are_carried(tmp_path, suffix, codec, note):
    source = make(tmp_path / "in.mkv", text="subrip")
    notes = "; ".join(copied(source, tmp_path / f"out.{suffix}", transcode=True))
    assert note in notes
    assert ("subtitle", codec) in [found[:2] for found in streams(tmp_path / f"out.{suffix}")]
    with av.open(str(tmp_path / f"out.{suffix}")) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["One", "Two"]
        said = [p for p in container.demux(container.streams.subtitles[0]) if p.size > 2]
    assert b"Hello" in bytes(said[0]) and float(said[0].pts * said[0].time_base) == pytest.approx(0.1, abs=0.03)


def test_sound_that_does_not_fit_is_refused_with_what_would_hold_it(tmp_path):
    source = make(tmp_path / "in.mkv", sound=("libopus",))
    with pytest.raises(
        UsageError, match=r"mov file cannot carry the source's opus.*\.mp4 or \.mkv or \.webm.*--transcode"
    ):
        copied(source, tmp_path / "out.mov")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv"]


@pytest.mark.parametrize(("suffix", "codec"), [("mov", "aac"), ("webm", "opus")])
def test_sound_is_encoded_anew_when_asked(tmp_path, suffix, codec):
    source = make(tmp_path / "in.mkv", sound=("libopus",) if codec == "aac" else ("aac",))
    assert "was encoded" in "; ".join(copied(source, tmp_path / f"out.{suffix}", transcode=True))
    assert streams(tmp_path / f"out.{suffix}")[1][:2] == ("audio", codec)
    before, after = times(source)[1], times(tmp_path / f"out.{suffix}")[1]
    assert after[-1] == pytest.approx(before[-1], abs=0.1)


def test_a_mirrored_video_comes_out_mirrored(tmp_path):
    source = make(tmp_path / "in.mp4", matrix=HFLIP, sound=())
    opened = open_source(source)
    first = next(opened.pictures((48, 64), lambda packet: None)).pixels
    opened.close()
    assert first[16, 56, 0] > 150 and first[16, 8, 0] < 100


def test_a_file_that_was_cut_off_says_so(tmp_path):
    """28 of 48 pictures came out, and not a word."""
    source = make(tmp_path / "in.mp4", frames=48, options={"movflags": "faststart"})
    data = source.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    assert any("cut off" in said for said in copied(tmp_path / "cut.mp4", tmp_path / "out.mp4"))
    assert not any("cut off" in said for said in copied(source, tmp_path / "whole.mp4"))


def test_the_default_video_track_is_the_one_that_is_taken(tmp_path):
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        tracks = [container.add_stream("libx264", 16) for _ in range(2)]
        for track in tracks:
            track.height, track.width, track.pix_fmt = 48, 64, "yuv420p"
        tracks[1].disposition = av.stream.Disposition.default
        for i in range(9):
            for track, level in zip(tracks, (40, 200), strict=True):
                picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
                picture.pts = i
                container.mux(track.encode(picture))
        for track in tracks:
            container.mux(track.encode(None))
    opened = open_source(tmp_path / "in.mkv")
    assert next(opened.pictures((48, 64), lambda packet: None)).pixels.mean() > 150
    assert opened.notes == ["the video track 0 was left out"]
    opened.close()


def test_a_picture_keeps_its_own_duration_the_last_included(tmp_path):
    with av.open(str(tmp_path / "in.gif"), "w") as container:
        video = container.add_stream("gif", 100)
        video.height, video.width, video.pix_fmt = 48, 64, "rgb8"
        video.codec_context.time_base = Fraction(1, 100)
        for i, pts in enumerate((0, 10, 40)):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 80 * i, np.uint8), format="rgb24")
            picture = picture.reformat(format="rgb8")
            picture.pts, picture.time_base = pts, Fraction(1, 100)
            for packet in video.encode(picture):
                packet.duration = 200
                container.mux(packet)
        container.mux(video.encode(None))
    with av.open(str(tmp_path / "in.gif")) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
        end = float((last.pts + last.duration) * last.time_base)
    for name in ("out.mp4", "out.mkv"):
        copied(tmp_path / "in.gif", tmp_path / name)
        with av.open(str(tmp_path / name)) as container:
            assert container.duration / 1e6 == pytest.approx(end, abs=0.02)


def test_every_second_line_of_an_interlaced_picture_is_made_anew(tmp_path):
    with av.open(str(tmp_path / "in.mpg"), "w") as container:
        video = container.add_stream("mpeg2video", 25, {"flags": "+ilme+ildct", "q": "2"})
        video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
        video.codec_context.bit_rate = 4_000_000
        for i in range(12):
            pixels = np.full((64, 96, 3), 30, np.uint8)
            pixels[::2, 4 * i : 4 * i + 24] = 220
            pixels[1::2, 4 * i + 12 : 4 * i + 36] = 220  # the second field is later
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            picture.pts = i
            container.mux(video.encode(picture))
        container.mux(video.encode(None))

    def combs(deinterlace):
        opened = open_source(tmp_path / "in.mpg", deinterlace=deinterlace)
        shown = [p.pixels[..., 0].astype(int) for p in opened.pictures((64, 96), lambda packet: None)]
        opened.close()
        return len(shown), np.abs(shown[6][1:-1] * 2 - shown[6][:-2] - shown[6][2:]).mean(), opened.notes

    kept, made = combs(False), combs(True)
    assert kept[0] == made[0] == 12
    assert made[1] < 0.7 * kept[1] and "interlaced pictures were deinterlaced (bwdif)" in made[2]


def test_everything_beside_the_pictures_is_optional(tmp_path):
    source = make(tmp_path / "in.mkv", sound=())
    opened = open_source(source)
    assert opened.extras.streams == () and isinstance(opened.extras, Extras)
    opened.close()
