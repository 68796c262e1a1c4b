"""Nothing that anybody configures is unbounded: every number of every schema has a least and a greatest value."""

import importlib
import pkgutil

import pytest
from pydantic import BaseModel, Field, ValidationError, create_model

import core
import server
from core.config import Config

LEAST, MOST = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
PROGRAMS = ("__main__",)


def modules():
    for package in (core, server):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.rpartition(".")[2] not in PROGRAMS:
                try:
                    yield importlib.import_module(found.name)
                except ModuleNotFoundError as error:
                    assert error.name not in ("core", "server"), error  # an extra that is not installed


def subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


def models():
    """Every pydantic model of ours."""
    list(modules())
    ours = {m for m in subclasses(BaseModel) if m.__module__.split(".")[0] in ("core", "server")}
    return sorted((m for m in ours if m.model_fields), key=lambda m: f"{m.__module__}.{m.__qualname__}")


def unbounded(schema, path=""):
    """The paths of numbers in a JSON schema that lack a bound."""
    if isinstance(schema, list):
        for number, part in enumerate(schema):
            yield from unbounded(part, f"{path}[{number}]")
    if not isinstance(schema, dict):
        return
    bounded = (LEAST & set(schema)) and (MOST & set(schema))
    if schema.get("type") in ("integer", "number") and not bounded and not {"enum", "const"} & set(schema):
        yield path
    for key, part in schema.items():
        if key not in ("default", "examples"):
            yield from unbounded(part, f"{path}.{key}")


MODELS = models()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.__module__}.{model.__qualname__}")
def test_every_number_has_both_bounds(model):
    assert list(unbounded(model.model_json_schema())) == []


def test_the_walk_sees_all_that_clients_and_operators_write():
    names = {model.__name__ for model in MODELS}
    assert names >= {
        "Settings",
        "SessionConfig",
        "SolverConfig",
        "OfferBody",
        "Change",
        "GaussianBlur",
        "Inpainting",
        "Mask",
        "Workload",
        "AdmissionConfig",
        "NamedToken",
    }


LOOSE = [
    (int, {}),
    (int, {"ge": 0}),
    (float, {"lt": 9}),
    (int | None, {"gt": 0}),
    (tuple[float, ...], {}),
    (dict[str, int], {}),
]


@pytest.mark.parametrize("kind, bounds", LOOSE)
def test_a_number_without_a_bound_is_seen(kind, bounds):
    model = create_model("Loose", __base__=Config, number=(kind, Field(**bounds)))
    assert list(unbounded(model.model_json_schema())) != []


@pytest.mark.parametrize("kind", [int, float, int | None])
@pytest.mark.parametrize("value", [True, False])
def test_true_is_no_number(kind, value):
    model = create_model("Loose", __base__=Config, number=(kind, Field(ge=0, le=9)), flag=(bool, False))
    with pytest.raises(ValidationError):
        model(number=value)
    assert model(number=1, flag=True).flag is True
