"""`GET /openapi.json` and `GET /channel.json`: what clients may send and what they are told, made from the models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from core.contract import SolverConfig
from server.api.endpoints import Change, OfferBody
from server.sessions import channel
from server.sessions.config import WORDS, SessionConfig

REF = "#/components/schemas/{model}"
TEXT: dict[str, Any] = {"type": "string"}
OBJECT: dict[str, Any] = {"type": "object"}
SIZE: dict[str, Any] = {"type": "string", "pattern": r"^[0-9]{1,5}x[0-9]{1,5}$", "examples": ["416x240"]}
NAME: dict[str, Any] = {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"}


class Answer(BaseModel):
    """A session that was opened."""

    model_config = ConfigDict(extra="allow")  # a gateway adds whether it resumed

    id: str
    sdp: str
    type: Literal["answer"]


class Applied(BaseModel):
    """A change that was taken."""

    applies_from_chunk: int = Field(ge=0, le=2**53)


class Fault(BaseModel):
    code: str
    message: str
    retryable: bool


class Place(BaseModel):
    position: int = Field(ge=1, le=10_000)
    ticket: str


class Refused(BaseModel):
    """Every refusal."""

    error: Fault
    queue: Place | None = None


ANSWERS: tuple[type[BaseModel], ...] = (Answer, Applied, Refused)
BODIES: tuple[type[BaseModel], ...] = (OfferBody, SessionConfig, SolverConfig, Change)


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    summary: str
    answers: dict[int, dict[str, Any] | str | None]
    """status: schema of the JSON, or a media type of something else, or None for no content"""
    body: tuple[str, dict[str, Any]] | None = None
    """media type and schema"""
    query: tuple[str, ...] = ()
    guarded: bool = True
    """asks for the token, where there is one"""


SDP, FRAGMENT, JSON = "application/sdp", "application/trickle-ice-sdpfrag", "application/json"


def ref(model: type[BaseModel] | str) -> dict[str, Any]:
    return {"$ref": REF.format(model=model if isinstance(model, str) else model.__name__)}


def of_streams(kind: str, query: tuple[str, ...]) -> dict[tuple[str, str], Operation]:
    """WHIP or WHEP (RFC 9725)."""
    verb = "Publish a stream" if kind == "whip" else "Watch a stream"
    of_one = f"/{kind}/{{name}}/{{id}}"
    return {
        ("post", f"/{kind}/{{name}}"): Operation(verb, {201: SDP}, (SDP, TEXT), query),
        ("get", f"/{kind}/{{name}}"): Operation("Whether there is such an endpoint", {204: None}),
        ("options", f"/{kind}/{{name}}"): Operation("What pages of other origins may do", {200: None}, guarded=False),
        ("get", of_one): Operation("Whether there is such a session", {204: None}),
        ("patch", of_one): Operation("More ICE candidates", {204: None}, (FRAGMENT, TEXT)),
        ("delete", of_one): Operation("End it", {200: None}),
        ("options", of_one): Operation("What pages of other origins may do", {200: None}, guarded=False),
    }


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("post", "/sessions"): Operation("Open a session, or resume one", {201: ref(Answer)}, (JSON, ref("OpenSession"))),
    ("get", "/sessions/{id}"): Operation("What a session does, and every drop it counted", {200: OBJECT}),
    ("patch", "/sessions/{id}"): Operation("Change operator or solver", {200: ref(Applied)}, (JSON, ref("Change"))),
    ("delete", "/sessions/{id}"): Operation("End a session", {204: None}),
    ("delete", "/queue/{ticket}"): Operation("Give up a place in line", {204: None}),
    ("get", "/healthz"): Operation("The process lives", {200: OBJECT}, guarded=False),
    ("get", "/readyz"): Operation("200 when a model is warm", {200: OBJECT}, guarded=False),
    ("get", "/models"): Operation("The model and what it costs", {200: OBJECT}, guarded=False),
    ("get", "/operators"): Operation("Every operator's schema and defaults", {200: OBJECT}, guarded=False),
    ("get", "/ice"): Operation("STUN and TURN servers for RTCPeerConnection", {200: OBJECT}),
    ("get", "/stats"): Operation("The server as a whole", {200: OBJECT}),
    ("get", "/openapi.json"): Operation("This description", {200: OBJECT}, guarded=False),
    ("get", "/channel.json"): Operation("JSON Schema of the data channel's messages", {200: OBJECT}, guarded=False),
    **of_streams("whip", WORDS),
    **of_streams("whep", ()),
}
"""all routes but the page's files and those between gateways and nodes"""


@cache
def openapi() -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method] = described(path, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "AVIS: live video, restored", "version": version("avis-server")},
        "paths": paths,
        "components": {"schemas": schemas(), "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def described(path: str, operation: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {"summary": operation.summary, "parameters": parameters(path, operation.query)}
    told["responses"] = {str(status): answer(content) for status, content in operation.answers.items()}
    told["responses"]["default"] = {"description": "Refused", "content": {JSON: {"schema": ref(Refused)}}}
    if operation.body is not None:
        media, schema = operation.body
        told["requestBody"] = {"required": True, "content": {media: {"schema": schema}}}
    if operation.guarded:
        told["security"] = [{}, {"token": []}]
    return told


def answer(content: dict[str, Any] | str | None) -> dict[str, Any]:
    if content is None:
        return {"description": "Done"}
    media, schema = (content, TEXT) if isinstance(content, str) else (JSON, content)
    return {"description": "Done", "content": {media: {"schema": schema}}}


def parameters(path: str, query: tuple[str, ...]) -> list[dict[str, Any]]:
    of_path = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    found = [
        {"name": name, "in": "path", "required": True, "schema": NAME if name == "name" else TEXT} for name in of_path
    ]
    return found + [{"name": name, "in": "query", "schema": TEXT} for name in query]


def schemas() -> dict[str, Any]:
    """The models of bodies and answers; what POST /sessions takes is two of them in one object."""
    modes = [(model, "validation") for model in (*BODIES, *ANSWERS)]
    _, found = models_json_schema(modes, ref_template=REF)  # type: ignore[arg-type]
    models: dict[str, Any] = found["$defs"]
    offer, config = models.pop("OfferBody"), models.pop("SessionConfig")
    config["properties"]["size"] = {"anyOf": [SIZE, {"type": "null"}], "default": None}
    models["OpenSession"] = {
        **offer,
        "title": "OpenSession",
        "properties": {**offer["properties"], **config["properties"]},
    }
    models["Change"]["properties"]["solver"] = {"anyOf": [ref(SolverConfig), {"type": "null"}], "default": None}
    return models


async def show_openapi(request: web.Request) -> web.Response:
    return web.json_response(openapi())


async def show_channel(request: web.Request) -> web.Response:
    return web.json_response(channel.schema())


def routes() -> list[web.RouteDef]:
    return [web.get("/openapi.json", show_openapi), web.get("/channel.json", show_channel)]
