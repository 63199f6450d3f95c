"""Prediction by OpenVINO against prediction by torch."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from compendium import cli
from compendium.openvino import OpenVINONetwork, with_openvino
from magunet.base import profiles
from magunet.base.errors import InputError
from magunet.metrics import overlap
from magunet.predict import Model
from magunet.studies import build
from magunet.volume import read_volume


def model_of(name: str) -> Model:
    torch.manual_seed(0)
    network = build(name, 16)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)            # alpha, beta and biases begin at 0
    settings = replace(profiles.load("smoke"), precision="float32", depth=16, size=32)
    return Model(network.eval(), settings, {}, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", ("3D U-Net", "MAG-UNet"))
def test_both_engines_give_the_same_probability(name):
    image = np.random.default_rng(0).random((24, 32, 32), np.float32)
    torchs = model_of(name).probability(image)
    theirs = with_openvino(model_of(name)).probability(image)
    assert torchs.std() > 0.01
    np.testing.assert_allclose(theirs, torchs, atol=2e-3)


def test_a_window_of_another_depth_is_converted_too():
    model = with_openvino(model_of("3D U-Net"))
    for depth in (16, 20):
        x = torch.rand(1, 1, depth, 32, 32)
        expected = model.network.network(x)
        torch.testing.assert_close(model.network(x), expected, atol=1e-3, rtol=1e-3)


def test_a_network_openvino_cannot_run_is_refused():
    class Eigenvalues(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x).real

    with pytest.raises(InputError, match="leave out --engine"):
        OpenVINONetwork(Eigenvalues(), torch.float32)(torch.rand(1, 1, 4, 4, 4))


def test_nothing_is_told_to_its_makers():
    """OpenVINO sends a message for each network it converts, where its package for that can be imported."""
    code = ("import compendium.openvino as ours, torch; ours.OpenVINONetwork(torch.nn.Identity(), torch.float32);"
            "from openvino.tools.ovc import telemetry_utils, convert_impl;"
            "print(telemetry_utils.tm.__name__, convert_impl.tm.__name__)")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["openvino.tools.ovc.telemetry_stub"] * 2


def test_where_it_is_missing_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"magunet\[openvino\]"):
        with_openvino(model_of("3D U-Net"))


def test_the_verb_predicts_with_either(run, tmp_path):
    scan = next((run.parents[1] / "data" / "boxes" / "imagesTr").iterdir())
    masks, said = [], []
    for engine in ("torch", "openvino"):
        words = ["predict", scan, "--model", run, "--out", tmp_path / engine, "--formats", "nifti,json", "--engine", engine]
        assert cli.main([str(word) for word in words]) == 0
        masks.append(read_volume(next((tmp_path / engine).glob("*.nii.gz"))).array)
        said.append("OpenVINO" in next((tmp_path / engine).glob("*.json")).read_text())
    assert overlap(*masks).dice > 0.98 and said == [False, True]
