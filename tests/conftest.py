"""Settings and fixtures for every test."""

import hypothesis
import pytest
import torch

# Examples follow from the tests alone, so a failure in CI is the failure at home.
hypothesis.settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
# `pytest --hypothesis-profile=default` looks for new examples instead.
hypothesis.settings.load_profile("deterministic")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=[1, 2, 3], ids=["1d", "2d", "3d"])
def rank(request):
    """Number of spatial dimensions."""
    return request.param


@pytest.fixture
def set_threads():
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
