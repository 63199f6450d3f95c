"""The doctor knows every profile and this machine."""

from dataclasses import replace

import pytest
import torch

from compendium import doctor
from magunet.base import profiles

CPU = torch.device("cpu")


def test_hours_follow_from_one_measured_step_and_the_operations(monkeypatch, tmp_path):
    """A step of cpu takes 30 s; one of gpu, whose window has ten times the operations, 300 s. The curve's ten
    cases go forward only, which is a third of a step. Profile cpu trains the ten networks of Table 4 with ten
    seeds and 26 others with four; gpu all 36 with three."""
    cpu, gpu = profiles.load("cpu"), profiles.load("gpu")
    known = {"cpu": cpu, "gpu": gpu,
             "mine": replace(cpu, profile="mine", cohort=str(tmp_path), seeds=(0, 1)),
             "gone": replace(cpu, profile="gone", cohort=str(tmp_path / "gone"))}
    for name in (*(f"papermill_params/{name}.yaml" for name in known),
                 *(f"imagesTr/ct_{number}_0000.nii.gz" for number in range(10))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    used = {"training": 5e9, "recomputing": 3e9, "prediction": 1e9}
    monkeypatch.setattr(doctor.project, "root", lambda: tmp_path)
    monkeypatch.setattr(doctor.profiles, "load", known.get)
    monkeypatch.setattr(doctor, "free_bytes", lambda device: 4e9)
    monkeypatch.setattr(doctor, "process_bytes", lambda way, *_: used[way])
    monkeypatch.setattr(doctor, "step_seconds", lambda settings, device: {"cpu": 30.0}[settings.profile])
    monkeypatch.setattr(doctor, "step_flop", lambda settings: 50 if settings == gpu else 5)
    table = doctor.profile_table(CPU, timed=cpu)
    assert set(table.index) == set(known) and table.loc["gone", "steps":].isna().all()
    assert set(table["fits"]) == {"recomputing"} and table["recomputing, GB"]["cpu"] == 3
    table = table.loc[["cpu", "gpu", "mine"]]
    assert table["seconds a step"].tolist() == [30, 300, 30]
    assert table["steps"].tolist() == [cpu.epochs * 200, gpu.epochs * 200, cpu.epochs * 7]
    assert table["trainings"].tolist() == [10 * 10 + 26 * 4, 36 * 3, 27 * 2]
    hours = [seconds * epochs * (cases + 10 / 3) / 3600 for seconds, epochs, cases in (
        (30, cpu.epochs, 200), (300, gpu.epochs, 200), (30, cpu.epochs, 7))]
    assert table["one training, h"].tolist() == pytest.approx(hours)


def test_this_machine_and_a_step_are_measured():
    """Operations grow with the window."""
    assert "GB" in doctor.machine(CPU) and f"on {torch.get_num_threads()} thread(s)" in doctor.machine(CPU)
    smoke = profiles.load("smoke")
    assert 0 < doctor.step_seconds(smoke, CPU) < 60
    finer = replace(smoke, voxel_mm=smoke.voxel_mm / 2)
    assert doctor.step_flop(finer) == pytest.approx(8 * doctor.step_flop(smoke), rel=0.1)
