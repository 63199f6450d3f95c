"""Shared by all tests: fixed threads, an empty compendium to work in, what a refusal looks like."""

import contextlib
import os
import shutil
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from boxes import TINY, write_cohort

from magunet import runs
from magunet.base import project
from magunet.base.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)      # two stall each other where something else runs


def pytest_addoption(parser):
    parser.addoption("--torture", action="store_true",
                     help="also the faults that take long; see 'make torture'")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--torture"):
        for item in items:
            if item.get_closest_marker("torture"):
                item.add_marker(pytest.mark.skip(reason="make torture"))


@pytest.fixture(autouse=True)
def no_autocast_left():
    """A context that a test leaves open would change what every later test computes."""
    yield
    assert not torch.is_autocast_enabled("cpu")


@pytest.fixture
def compendium(tmp_path, monkeypatch):
    """An empty compendium to work in: the settings are there, data and runs are not."""
    shutil.copytree(ROOT / "papermill_params", tmp_path / "papermill_params")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a run trained on boxes, in a compendium of its own."""
    root = tmp_path_factory.mktemp("run")
    (root / project.MARKER).mkdir()
    with contextlib.chdir(root):
        return root / runs.fit("3D U-Net", TINY, 0, write_cohort(root / "data" / "boxes"))


def refused(call, *words):
    """The call raises InputError whose one line holds the words."""
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), f"{word!r} not in {error.value}"
