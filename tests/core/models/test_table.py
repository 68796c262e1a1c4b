import pytest

from core.contract import SolverConfig
from core.errors import UsageError
from core.models.table import check_tier, tiers


def test_a_tier_that_a_model_lacks_is_refused_by_name():
    check_tier("tiny", "sharp")
    with pytest.raises(UsageError, match=r"model wan2\.1-1\.3b has no tier 'sharp'; it has faithful"):
        check_tier("wan2.1-1.3b", "sharp")
    assert tiers("a model of a test") == ("faithful", "sharp")


def test_the_sharp_tier_must_see_the_measurement():
    with pytest.raises(ValueError, match="needs condition=true"):
        SolverConfig(tier="sharp", condition=False)
