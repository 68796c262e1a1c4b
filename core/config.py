"""The base of every configuration object: immutable; a misspelt name and a number that is none are errors."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen and hashable; the docstring under a field is its help text, with its unit and equation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
