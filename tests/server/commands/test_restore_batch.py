"""`avis restore IN... --out-dir DIR`: what is done is skipped, and what fails keeps no other file from its turn."""

import json
import os
from fractions import Fraction

import pytest

from core.engine import Engine
from core.evaluation.bench import moving_scene
from server import cli
from server.commands import restore_batch
from server.files.inputs import open_source
from server.files.outputs import open_sink, write_png
from server.files.source import About, Picture, leave_out

pytestmark = pytest.mark.usefixtures("loads")


def video(path, frames=9):
    with open_sink(path, About(48, 32, Fraction(16), Fraction(1, 16), None)) as sink:
        for i, pixels in enumerate(moving_scene(frames, 32, 48)):
            sink.write(Picture(pixels, i))
    return path


def run(*arguments):
    return cli.main(["restore", *map(str, arguments), "--operator", "inpainting", "--operator.keep", "0.9"])


def length(path):
    source = open_source(path)
    try:
        return len(list(source.pictures((32, 48), leave_out)))
    finally:
        source.close()


def test_many_files_take_one_model_and_keep_their_names(tmp_path, loads, capsys):
    (tmp_path / "pictures").mkdir()
    for i, pixels in enumerate(moving_scene(3, 32, 48)):
        write_png(tmp_path / "pictures" / f"{i}.png", pixels)
    sources = [video(tmp_path / "a.mp4"), video(tmp_path / "b.webm", 12), tmp_path / "pictures"]
    out = tmp_path / "new" / "out"
    assert run(*sources, "--out-dir", out, "--json", tmp_path / "report.json") == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.mp4", "b.webm", "pictures"]
    assert (length(out / "a.mp4"), length(out / "b.webm"), length(out / "pictures")) == (9, 12, 3)
    report = json.loads((tmp_path / "report.json").read_text())
    assert {name: found["frames"] for name, found in report["files"].items()} == {
        str(out / "a.mp4"): 9,
        str(out / "b.webm"): 12,
        str(out / "pictures"): 3,
    }
    assert len(loads) == 1 and "3 restored, 0 done before, 0 failed of 3; memory" in capsys.readouterr().out


def test_what_is_done_is_skipped_and_a_failure_keeps_nobody_waiting(tmp_path, loads, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    sources = [tmp_path / "bad.mp4", video(tmp_path / "good.mkv")]
    assert run(*sources, "--out-dir", tmp_path / "out") == 1
    said = capsys.readouterr().out
    assert (
        "failed   " in said
        and "expected a video or a picture" in said
        and "1 restored, 0 done before, 1 failed" in said
    )
    written = (tmp_path / "out" / "good.mkv").stat().st_mtime_ns
    assert run(*sources, "--out-dir", tmp_path / "out") == 1
    assert "0 restored, 1 done before, 1 failed" in capsys.readouterr().out
    assert (tmp_path / "out" / "good.mkv").stat().st_mtime_ns == written
    assert run(sources[1], "--out-dir", tmp_path / "out", "--overwrite") == 0
    assert (tmp_path / "out" / "good.mkv").stat().st_mtime_ns > written


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    sources = [video(tmp_path / f"{i}.mp4") for i in range(3)]
    step, calls = Engine.step, []

    def interrupted(*args, **settings):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(*args, **settings)

    monkeypatch.setattr(Engine, "step", interrupted)
    assert run(*sources, "--out-dir", tmp_path / "out") == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.mp4"]
    assert "1 restored, 0 done before, 0 failed of 3" in capsys.readouterr().out
    assert run(*sources, "--out-dir", tmp_path / "out") == 0
    assert "2 restored, 1 done before, 0 failed of 3" in capsys.readouterr().out


def test_a_folder_of_videos_stands_for_its_videos(tmp_path):
    (tmp_path / "tapes").mkdir()
    for name in ("10.mp4", "9.mp4", "._9.mp4"):
        (tmp_path / "tapes" / name).write_bytes(b"")
    assert [path.name for path in restore_batch.expanded(tmp_path / "tapes")] == ["9.mp4", "10.mp4"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("a.mp4", "sub/a.mp4", "--out-dir", "out"), "both become a.mp4"),
        (("a.mp4", "--out-dir", "."), "another folder"),
        (("a.mp4", "--out-dir", "a.mp4"), "expected a folder for --out-dir"),
        (("a.mp4", "--out-dir", "out", "--operator.keep", "7"), "keep"),
        (("a.mp4", "b.mp4", "c.mp4"), "several IN with --out-dir"),
        (("a.mp4", "b.mp4", "--jobs", "2"), "--jobs goes with --out-dir"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_file(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("a.mp4", "sub/a.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert cli.main(["restore", *arguments, "--operator", "inpainting"]) == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1


def test_what_a_killed_run_left_is_removed(tmp_path):
    alive = tmp_path / f".avis-00000000-{os.getpid()}.part"
    for path in (tmp_path / ".avis-0a1b2c3d-999999999.part", alive, tmp_path / ".avis-note.part"):
        path.write_bytes(b"")
    restore_batch.remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, ".avis-note.part"])


def test_several_files_at_a_time_run_in_processes_of_their_own(tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    sources = video(tmp_path / "0.mp4"), tmp_path / "bad.mp4"
    assert run(*sources, "--out-dir", tmp_path / "out", "--jobs", "2", "--weights", "random") == 1
    said = capsys.readouterr().out
    assert "1 restored, 0 done before, 1 failed of 2" in said and "expected a video or a picture" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.mp4"]
