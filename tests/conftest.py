"""Shared by all tests: what happens where an optional component is missing (see tests/support/components.py)."""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.support.components import is_required, missing

# Timing decides no test.
settings.register_profile(
    "untimed", parent=settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("requires"):
        for name in marker.args:
            if (reason := missing(name)) is None:
                continue
            if is_required(name, os.environ):
                pytest.fail(
                    f"DIST_CALO_REQUIRE={os.environ['DIST_CALO_REQUIRE']}, but {reason}", pytrace=False
                )
            pytest.skip(reason)
