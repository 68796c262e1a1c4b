"""What a user may set of each model. Loads no model and no torch, so that a command's help is quick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from core.config import Config
from core.errors import UsageError, explain

FOLDER = Path.home() / ".cache" / "avis" / "weights"
"""where `avis weights` puts files and models look for them, unless told otherwise"""


Backend = Literal["float32", "bfloat16"]
"""arithmetic of the tiny model's convolutions and attention, the exact one first"""


class TinySettings(Config):
    backend: Literal["auto"] | Backend = "auto"
    """arithmetic of the convolutions and attention; auto measures which is faster on this processor"""


class WanConfig(Config):
    window: int = Field(9, ge=3, le=240, multiple_of=3)
    """latent frames a chunk attends to, its own 3 included: 6, 9, 12, or 21 as in the paper"""
    sink: int = Field(0, ge=0, le=120, multiple_of=3)
    """latent frames, of the window, that stay from the start of the stream"""
    folder: Path = FOLDER
    """where `avis weights` put its files"""
    prompt: Path | None = None
    """an embedding made by `avis weights prompt`; without one, `prompt.safetensors` in the folder if it is there.
    Without both, the transformer gets no text: every row of its context is zero"""
    compile: bool = False
    """compile the transformer's blocks with torch.compile: the first chunks of every size then take long"""
    graphs: bool = False
    """replay the transformer's steady passes as CUDA graphs; needs a GPU"""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto is bfloat16 on a GPU and float32 on a CPU, where bfloat16 is the slower one"""
    seed: int = Field(0, ge=0, lt=2**63)
    """of random weights"""
    layers: int = Field(30, ge=1, le=30)
    """of the transformer; the published weights have 30, random ones may have fewer, to try things quickly"""

    @model_validator(mode="after")
    def _sink_leaves_a_past(self) -> WanConfig:
        if self.sink and self.window < self.sink + 6:
            raise ValueError(f"a sink of {self.sink} needs a window of {self.sink + 6} at least, not {self.window}")
        return self


CONFIGS: tuple[type[Config], ...] = (TinySettings, WanConfig)
"""every class of settings that a row of MODELS names, for help texts"""


def configure(model: str, config: type[Config], given: Mapping[str, Any]) -> Config:
    """The settings of `model`, of class `config`. Raises UsageError with one sentence that names the wrong one."""
    try:
        return config.model_validate(dict(given))
    except ValidationError as error:
        raise UsageError(f"setting of model {model}, {explain(error)}") from error
