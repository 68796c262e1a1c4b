import pytest
import torch

from core.models.load import Model
from core.models.tiny.denoiser import TinyConfig
from core.models.tiny.load import build
from server.commands import options

SMALL = TinyConfig(quarter=32, eighth=32, width=32, heads=2, layers=1, window=2)


@pytest.fixture
def loads(monkeypatch):
    """Commands get a small configuration of the real model; the list names each model that was loaded."""
    found = []

    def load(name, weights, device, codec, settings):
        found.append(name)
        return Model(name, *build(SMALL), torch.device("cpu"), 1)

    monkeypatch.setattr(options, "load", load)
    return found
