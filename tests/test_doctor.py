"""The doctor knows every profile and this machine."""

from dataclasses import replace

import pytest
import torch

from compendium import doctor
from magunet.base import profiles

CPU = torch.device("cpu")


def test_it_says_what_each_profile_takes_in_memory():
    table = doctor.memory_table(CPU)
    assert {"smoke", "cpu", "gpu", "paper"} <= set(table.index)
    assert (table["recomputing, GB"] <= table["training, GB"]).all()
    assert "GB" in doctor.machine(CPU) and f"{torch.get_num_threads()} threads" in doctor.machine(CPU)


def test_a_step_is_measured_here():
    assert 0 < doctor.step_seconds(profiles.load("smoke"), CPU) < 60


def test_hours_follow_from_one_measured_step_and_the_operations(monkeypatch, tmp_path):
    """A step of cpu takes 30 s; one of gpu, whose window has ten times the operations, 300 s."""
    cpu, gpu = profiles.load("cpu"), profiles.load("gpu")
    (tmp_path / "imagesTr").mkdir()
    for number in range(10):
        (tmp_path / "imagesTr" / f"ct_{number}_0000.nii.gz").touch()
    others = [replace(cpu, profile="mine", cohort=str(tmp_path), seeds=(0, 1)),
              replace(cpu, profile="gone", cohort=str(tmp_path / "gone"))]
    monkeypatch.setattr(doctor, "all_settings", lambda: [cpu, gpu, *others])
    monkeypatch.setattr(doctor, "step_seconds", lambda settings, device: {"cpu": 30.0}[settings.profile])
    monkeypatch.setattr(doctor, "step_flop", lambda settings: 50 if settings == gpu else 5)
    table = doctor.time_table(CPU)
    assert list(table.index) == ["cpu", "gpu", "mine"] and table["seconds a step"].tolist() == [30, 300, 30]
    assert table["steps"].tolist() == [30 * 17, 60 * 49, 30 * 7] and table["trainings"].tolist() == [25, 90,
                                                                                                     50]
    hours = [30 * 30 * (17 + 7 * 2 / 3) / 3600, 300 * 60 * (49 + 21 * 2 / 3) / 3600,
             30 * 30 * (7 + 3 * 2 / 3) / 3600]
    assert table["one training, h"].tolist() == pytest.approx(hours, rel=0.05)


def test_operations_of_a_step_grow_with_the_window():
    smoke = profiles.load("smoke")
    assert doctor.step_flop(replace(smoke,
                                    depth=2 * smoke.depth)) == pytest.approx(2 * doctor.step_flop(smoke),
                                                                             rel=0.1)
