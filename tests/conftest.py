"""Shared by all tests: fixed threads, an empty compendium to work in, what a refusal looks like."""

import contextlib
import os
import shutil
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from boxes import TINY, write_cohort
from hypothesis import HealthCheck, settings

from magunet import runs
from magunet.base import project
from magunet.base.errors import InputError

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)      # two stall each other where something else runs
settings.register_profile("any cores", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any cores")


LONGEST_SECONDS = 15
"""A longer setup or call fails. Over 5 s a test is to be marked slow: ``make test`` lists those it finds."""


@contextlib.contextmanager
def everyday(item):
    """Fails an unmarked test that took too long by the processor, or three times as long by the clock."""
    clock, processor = time.monotonic(), sum(os.times()[:4])
    yield
    taken = max(sum(os.times()[:4]) - processor, (time.monotonic() - clock) / 3)
    if taken > LONGEST_SECONDS and not item.get_closest_marker("slow"):
        pytest.fail(f"took {taken:.0f} s, more than {LONGEST_SECONDS}: make it cheaper, or mark it slow",
                    pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """The limit holds for the test itself, and for its fixtures, too."""
    with everyday(item):
        return (yield)


pytest_runtest_setup = pytest_runtest_call


@pytest.fixture(autouse=True)
def nothing_left():
    """What a test computes depends on none before it: on no context left open, and on no random draws."""
    torch.manual_seed(0)
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
