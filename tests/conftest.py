"""Shared by all tests: fixed threads, a small compendium in a temporary folder, a quick phantom."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)      # two stall each other where something else runs


@pytest.fixture
def compendium(tmp_path, monkeypatch):
    """An empty compendium to work in: the settings are there, data and runs are not."""
    shutil.copytree(ROOT / "papermill_params", tmp_path / "papermill_params")
    monkeypatch.chdir(tmp_path)
    return tmp_path
