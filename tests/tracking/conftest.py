"""Fixtures of the tests of tracking: a store, and a run's settings for it."""

import pytest

from tests.support.mlflow_store import Store, made_store
from tests.support.tracked import make_config


@pytest.fixture(scope="session")
def uri(tmp_path_factory):
    """An SQLite store; every test has an experiment of its own in it, as making the tables takes seconds."""
    return made_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def store(uri):
    return Store(uri)


@pytest.fixture
def config(uri, tmp_path, request):
    return make_config(uri, tmp_path, request.node.name)
