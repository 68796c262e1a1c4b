"""The base of every configuration object: immutable; a misspelt name and a number that is none are errors."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """Frozen and hashable; the docstring under a field is its help text, with its unit and equation.

    Every number has a least and a greatest value: no value from outside reaches arithmetic unbounded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, values: Any) -> Any:
        refuse_bools(values, cls)
        return values


def refuse_bools(values: Any, config: type[BaseModel]) -> None:
    """Raises ValueError where `values` has true or false for a field that is no truth value: to Python, True is 1."""
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        field = config.model_fields.get(name)
        if isinstance(value, bool) and field is not None and not takes_bool(field.annotation):
            raise ValueError(f"{name}: expected no truth value, found {value}")


def takes_bool(annotation: Any) -> bool:
    """Whether a field of this type may be true or false."""
    return any(kind is bool or kind is Any for kind in (annotation, *get_args(annotation)))
