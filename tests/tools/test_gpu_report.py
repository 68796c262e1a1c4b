"""`make gpu` itself, tried on a CPU with a small model: its parts, its reports, and how it goes on."""

import json

from tools import gpu_parts, gpu_report

ONLY = "machine,tests,bench taehv window 9,sessions taehv"


def run(out, *more):
    return gpu_report.main(["--device", "cpu", "--small", "--only", ONLY, "--out", str(out), *more])


def test_the_script_measures_writes_both_reports_and_goes_on_where_it_ended(tmp_path, monkeypatch):
    assert run(tmp_path) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert list(report["parts"]) == [
        *("machine", "tests", "bench taehv window 9 eager", "sessions taehv"),
        *("bench taehv window 9 graphs", "bench taehv window 9 compile"),
    ]
    eager = report["parts"]["bench taehv window 9 eager"]
    assert {"K=2", "K=1"} <= eager.keys() and eager["K=2"]["flops"] > eager["K=1"]["flops"] > 0
    assert eager["K=1"]["roofline"]["fraction"] > 0 and eager["K=1"]["session_bytes"] > 0
    assert report["parts"]["sessions taehv"]["K=1"]["admitted"] >= 1
    text = (tmp_path / "gpu.md").read_text()
    assert "Not measured on a GPU" in text and "| taehv window 9 eager | 2 |" in text
    assert "graphs is measured on a GPU only" in text
    monkeypatch.setattr(gpu_parts, "bench", lambda *case: 1 / 0)
    assert run(tmp_path) == 0, "nothing is measured twice"


def test_a_part_that_fails_or_finds_no_time_is_told(tmp_path, monkeypatch):
    args = gpu_report.arguments().parse_args(["--device", "nowhere", "--out", str(tmp_path)])
    assert gpu_report.run_part("machine", args, 1.0) is None
    monkeypatch.setattr(gpu_report.sys, "executable", "false")
    failed = gpu_report.run_part("machine", args, 60.0)
    report = {"commit": "c0ffee", "device": "cuda", "small": False, "parts": {"machine": failed}}
    text = gpu_report.markdown(report, ["machine", "sessions taehv"])
    assert "- machine: it ended with 1" in text and "- sessions taehv: no time was left" in text
    gpu_report.write(tmp_path, report, [])
    args.small, report["commit"] = False, gpu_report.commit()
    assert gpu_report.resumed(args)["parts"] == {}, "what failed is tried again"


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_report, "NEEDED", ("numpy", "no_such_package"))
    assert gpu_report.bring(tmp_path) == ["no_such_package"]
