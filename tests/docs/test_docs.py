"""The documentation: links lead somewhere, generated pages tell the whole interface, the README stays short."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TOOL = runpy.run_path(str(ROOT / "tools" / "docs.py"))
GENERATED = {DOCS / "reference" / name for name in TOOL["PAGES"]}
PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if page not in GENERATED)]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page):
    """The anchors of a page's headings."""
    words = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", word.lower()).replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_leads_somewhere(page):
    for link in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target in GENERATED or target.exists(), f"{link}: no such file"
        if anchor and target.suffix == ".md" and target not in GENERATED:
            assert anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", [page for page in PAGES if DOCS in page.parents], ids=lambda page: page.name)
def test_pages_of_the_site_link_to_no_file_that_it_does_not_hold(page):
    for link in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.partition("#")[0]).resolve().is_relative_to(DOCS), f"{link}: not in the site"


def test_every_page_is_in_the_menu_and_every_entry_is_a_page():
    def entries(node):
        if isinstance(node, str):
            return [node]
        return [page for part in (node.values() if isinstance(node, dict) else node) for page in entries(part)]

    listed = {DOCS / entry for entry in entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])}
    results = {(DOCS / link).resolve() for link in LINK.findall((DOCS / "paper.md").read_text()) if "results/" in link}
    assert listed | results == GENERATED | {page for page in PAGES if DOCS in page.parents}


def test_the_reference_tells_every_path_and_every_field():
    description = TOOL["openapi"]()
    text = TOOL["api"](description, TOOL["channel"].schema())
    for path, methods in description["paths"].items():
        assert all(f"### `{method.upper()} {path}`" in text for method in methods)
    for name, schema in description["components"]["schemas"].items():
        section = text.split(f"\n### {name}\n")[1].split("\n### ")[0]
        assert all(f"| `{field}` |" in section for field in schema.get("properties", {}))


def test_the_reference_tells_what_a_request_takes_and_what_its_answer_holds():
    text = TOOL["api"](TOOL["openapi"](), TOOL["channel"].schema())
    section = text.split("### `POST /sessions`\n")[1].split("\n### ")[0]
    assert "Takes [OpenSession](#opensession)." in section and "| 201 | Done, [Answer](#answer) |" in section
    assert "Takes query: `operator`, `mode`," in text.split("### `POST /whip/{name}`\n")[1].split("\n### ")[0]
    assert "1000000000000" not in text and str(2**53) not in text, "a bound that means any number"


def test_the_reference_links_only_to_objects_that_it_tells():
    text = TOOL["api"](TOOL["openapi"](), TOOL["channel"].schema())
    told = {heading.lower() for heading in re.findall(r"^### (\w+)$", text, re.M)}
    assert {link.removeprefix("#") for link in LINK.findall(text) if link.startswith("#")} <= told


def test_every_setting_stands_in_its_page():
    text = TOOL["settings"]()
    assert all(f"| `{name}` |" in text for name in (*TOOL["Settings"].model_fields, *TOOL["SolverConfig"].model_fields))


def test_pictures_are_small_enough_to_load():
    pictures = [file for file in (DOCS / "pictures").iterdir() if file.suffix != ".md"]
    assert pictures and all(file.stat().st_size <= 2_000_000 for file in pictures)


def test_the_lines_of_the_python_page_run(capsys):
    code = re.search(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.S)[1]
    small = code.replace("60, 104", "16, 24").replace("height=240, width=416", "height=64, width=96")
    exec(compile(small, "docs/python.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(9, 64, 96, 3)")


def test_an_operator_of_ones_own_is_restored():
    start, restored = runpy.run_path(str(ROOT / "examples" / "own_operator.py"))["main"]()
    assert restored > 20 and start > 20


def test_a_video_is_restored_with_the_library(tmp_path):
    import av

    from tests.clips import write_clip

    write_clip(tmp_path / "small.mp4", 9, 16, 24)
    example = runpy.run_path(str(ROOT / "examples" / "restore_array.py"))
    example["main"](tmp_path / "small.mp4", tmp_path / "large.mp4")
    with av.open(str(tmp_path / "large.mp4")) as video:
        sizes = [(frame.height, frame.width) for frame in video.decode(video=0)]
    assert sizes == [(64, 96)] * 9


def test_the_adapter_does_what_its_contract_says(tmp_path):
    import torch

    from core.contract import SolverConfig
    from core.operators.super_resolution import SuperResolution
    from server.commands import external

    (tmp_path / "avis_adapter.py").write_text((ROOT / "examples" / "avis_adapter.py").read_text())
    method = external.load("bicubic", tmp_path, Path(sys.executable))
    parts = list(method.restore_clip(torch.zeros(9, 3, 16, 24), SuperResolution(), 0, SolverConfig()))
    assert [part.x.shape for part in parts] == [(9, 3, 64, 96)]
