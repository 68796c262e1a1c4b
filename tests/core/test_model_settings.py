from pathlib import Path

import pytest

from core.errors import UsageError
from core.model_settings import CONFIGS, WanConfig, configure
from core.models.table import MODELS, choose
from core.models.wan.cache import CacheSpec


def test_every_model_names_its_class_of_settings_and_every_class_has_its_help():
    named = {spec.config for spec in MODELS.values()}
    assert named == set(CONFIGS)
    assert all(field.description for config in CONFIGS for field in config.model_fields.values())


def test_settings_come_as_text_from_a_command_line_and_as_values_from_a_file():
    text = {"window": "12", "sink": "3", "compile": "true", "dtype": "bfloat16", "prompt": "p.safetensors"}
    values = {"window": 12, "sink": 3, "compile": True, "dtype": "bfloat16", "prompt": Path("p.safetensors")}
    assert configure("wan", WanConfig, text) == configure("wan", WanConfig, values) == WanConfig(**values)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": 7}, "window: expected a multiple of 3, found 7"),
        ({"window": 0}, "window: .* greater than or equal to 3"),
        ({"windows": 9}, "windows: there is no such setting"),
        ({"dtype": "int8"}, "dtype: .*'float32' or 'bfloat16', found 'int8'"),
        ({"sink": 3, "window": 6}, "a sink of 3 needs a window of 9 at least, not 6"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(settings, words):
    with pytest.raises(UsageError, match=rf"setting of model wan2.1-1.3b, .*{words}"):
        choose("wan2.1-1.3b", None, settings)


def test_a_setting_of_another_model_is_refused():
    with pytest.raises(UsageError, match="setting of model tiny, window: there is no such setting"):
        choose("tiny", None, {"window": 9})


def test_what_is_a_setting_is_a_cache():
    """The settings refuse what the cache would refuse once the weights are loaded, and nothing else."""

    def accepted(make):
        try:
            make()
        except ValueError:
            return False
        return True

    for window in range(0, 25):
        for sink in range(0, 13):
            as_setting = accepted(lambda w=window, s=sink: WanConfig(window=w, sink=s))
            assert as_setting == accepted(lambda w=window, s=sink: CacheSpec(1, 1, 12, w, s)), (window, sink)
