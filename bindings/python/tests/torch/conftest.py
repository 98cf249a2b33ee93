"""A fixed number of threads; tests that only the long form runs."""

import torch

torch.set_num_threads(2)


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes long, or is one more case of what a shorter test checks")
