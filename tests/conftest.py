"""What every test gets: one thread, a fixed seed, and each device that the machine has."""

import functools
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

import neuralde
import neuralde.solvers
from neuralde.solvers.testing.covering import covering

# The second is loaded through its entry point already wherever the installed metadata has it.
pytest_plugins = ["pytester", "neuralde.pytest_plugin"]

torch.set_num_threads(1)

hypothesis.settings.register_profile("neuralde", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("neuralde")

DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else [])]


def pytest_report_header() -> str:
    return f"neuralde {neuralde.__version__} from {Path(neuralde.__file__).parent}, torch {torch.__version__}"


def pytest_sessionstart() -> None:
    """Refuse to test layers from two different checkouts, which a stray PYTHONPATH can mix."""
    top, solvers = (Path(layer.__file__).resolve().parents[1] for layer in (neuralde, neuralde.solvers))
    if solvers not in (top, top / "neuralde"):
        raise pytest.UsageError(f"neuralde is imported from {top} but neuralde.solvers from {solvers}: run `make test`")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked ``covering(strength)`` keep combinations with every value (1) or pair (2); the others are slow."""
    products: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("covering"):
            products.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for product in products.values():
        (strength,) = product[0].get_closest_marker("covering").args
        rows = [[id(value) for value in item.callspec.params.values()] for item in product]
        kept = set(covering(rows, strength))
        for number, item in enumerate(product):
            if number not in kept:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed every generator before each test; a test that needs the number may ask for it."""
    value = 0
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
    return value


@pytest.fixture
def graphs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What compiles by default, models above all, does up to the graph, without C++ that takes a minute to build."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device to compute on: the CPU and, where there is one, the CUDA device."""
    return torch.device(request.param)


@pytest.fixture
def on_device(device: torch.device):
    """Make new tensors on each device by default."""
    with torch.device(device):
        yield device
