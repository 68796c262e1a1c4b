"""Writes the pages of the documentation that come from the code: docs/reference. `make docs` runs it before mkdocs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.contract import SolverConfig
from server.api.description import openapi
from server.sessions import channel
from server.settings import Settings

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "reference"
ANY = 1e12
"""a bound of that size means any number"""
PAGES = ("api.md", "settings.md", "model-card.md")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    card = (ROOT / "core" / "weights" / "tiny.md").read_text(encoding="utf-8")
    for name, text in zip(PAGES, (api(openapi(), channel.schema()), settings(), card), strict=True):
        (FOLDER / name).write_text(text, encoding="utf-8")


def api(description: dict[str, Any], messages: dict[str, Any]) -> str:
    """The HTTP interface and the data channel, from their own schemas."""
    lines = ["# HTTP reference", "", "Made from `GET /openapi.json` and `GET /channel.json`.", "", "## Requests", ""]
    for path, methods in sorted(description["paths"].items()):
        for method, operation in methods.items():
            lines += [
                f"### `{method.upper()} {path}`",
                "",
                operation.get("summary") or operation.get("description", ""),
            ]
            lines += ["", *asked(operation), "| answer | |", "|---|---|"]
            for code, answer in operation["responses"].items():
                lines.append(f"| {code} | {cell(', '.join([answer['description'], *body(answer)]))} |")
            lines += [""]
    lines += ["## Objects", ""]
    for name, schema in sorted({**description["components"]["schemas"], **messages.get("$defs", {})}.items()):
        lines += [*table(name, schema), ""]
    return "\n".join(lines)


def asked(operation: dict[str, Any]) -> Iterator[str]:
    """What a request takes: the query, and the body."""
    query = [f"`{one['name']}`" for one in operation.get("parameters", ()) if one["in"] == "query"]
    takes = ([f"query: {', '.join(query)}"] if query else []) + body(operation.get("requestBody", {}))
    if takes:
        yield f"Takes {'; '.join(takes)}."
        yield ""


def body(message: dict[str, Any]) -> list[str]:
    """The body of a request or an answer: its object, or its media type where it is none of ours."""
    found = message.get("content", {})
    return [kind(about["schema"]) if "$ref" in about["schema"] else f"`{media}`" for media, about in found.items()]


def table(name: str, schema: dict[str, Any]) -> Iterator[str]:
    """An object's fields with their type, bounds and default."""
    yield f"### {name}"
    yield ""
    yield " ".join(schema.get("description", "").split())
    if not schema.get("properties"):
        return
    yield ""
    yield "| field | type | default | |"
    yield "|---|---|---|---|"
    for field, about in schema["properties"].items():
        default = "required" if field in schema.get("required", ()) else f"`{json.dumps(about.get('default'))}`"
        yield f"| `{field}` | {cell(kind(about))} | {default} | {cell(about.get('description', ''))} |"


def kind(about: dict[str, Any]) -> str:
    """A field's type in words."""
    if "$ref" in about:
        name = about["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in about:
            return " or ".join(kind(part) for part in about[several])
    if "const" in about or "enum" in about:
        return ", ".join(f"`{json.dumps(value)}`" for value in about.get("enum", [about.get("const")]))
    words = str(about.get("type", "any"))
    if words == "array":
        return f"list of {kind(about.get('items', {}))}"
    bounds = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
    told = [text.format(about[key]) for key, text in bounds.items() if abs(about.get(key, ANY)) < ANY]
    return " ".join([words, *told])


def settings() -> str:
    """The server's and the solver's settings."""
    lines = ["# Settings", "", "Each setting is an option of `avis serve` (`--max-sessions 4`), a variable of the"]
    lines += [
        "environment (`AVIS_MAX_SESSIONS=4`), or a line of the TOML file that `--config` names (`max_sessions = 4`).",
        "",
    ]
    for title, model in (("Server", Settings), ("Solver (`--solver.KEY VALUE`, `[solver]` in the file)", SolverConfig)):
        lines += [f"## {title}", "", "| setting | default | |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            default = "" if field.default in (None, "", (), "PydanticUndefined") else f"`{field.default}`"
            lines.append(f"| `{name}` | {cell(default)} | {cell(field.description or '')} |")
        lines.append("")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Text that a table of Markdown can hold."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


if __name__ == "__main__":
    main()
