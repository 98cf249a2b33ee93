"""A fixed number of threads; tests that only the long form runs."""


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes long, or is one more case of what a shorter test checks")


def pytest_collection_modifyitems():
    # Not above: the process that hands out tests to others has no need of torch.
    import torch

    torch.set_num_threads(2)
