"""Eight devices on the CPU, for the tests that need several."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import pytest
from hypothesis import settings

settings.register_profile("short", max_examples=4)
settings.register_profile("long", max_examples=25)
settings.load_profile("short")


def pytest_configure(config):
    config.addinivalue_line("markers", "smoke: run on every supported version of JAX")
    config.addinivalue_line("markers", "long: one more case of what a shorter test checks, too")


@pytest.fixture
def x64():
    from common import enable_x64

    with enable_x64():
        yield
