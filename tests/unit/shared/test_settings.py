"""Settings are read once, and what they cannot be is refused by name."""

import pytest

from cnm.errors import Invalid
from cnm.settings import from_environment


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf"])
def test_a_period_that_is_none_is_refused_by_name_and_value(text):
    with pytest.raises(Invalid, match=f"CNM_CONVERGE_PERIOD_S is '{text}'"):
        from_environment({"CNM_CONVERGE_PERIOD_S": text})


def test_an_empty_period_is_the_usual_one():
    assert from_environment({"CNM_CONVERGE_PERIOD_S": ""}).converge_period_s == 3.0
    assert from_environment({"CNM_CONVERGE_PERIOD_S": "0.5"}).converge_period_s == 0.5
