"""Maps of a network's modules, against computing them by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from compendium.figures.inside import map_figure, maps
from magunet.base import profiles
from magunet.fast import evaluate_by_input
from magunet.predict import Model
from magunet.studies import build


def test_maps_are_what_goes_in_and_out_of_a_module_in_evaluation():
    torch.manual_seed(0)
    model = Model(build("MAG-UNet", 32), profiles.load("smoke"), {}, torch.device("cpu"), torch.float32)
    window = np.random.default_rng(0).random((16, 16, 32), np.float32)
    net = model.network
    tensors = maps(model, window, {"first": net.encoder[0], "pam": net.attention.pam})
    evaluate_by_input(net)
    with torch.no_grad():
        x = torch.from_numpy(window)[None, None]
        torch.testing.assert_close(tensors["first"][0], x)
        torch.testing.assert_close(tensors["first"][1], net.encoder[0](x))
        torch.testing.assert_close(tensors["pam"][1], net.attention.pam(tensors["pam"][0]))
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("limits", [(None, None), (0, 2)])
def test_maps_are_drawn_as_they_are_on_their_own_scale_or_on_the_given_one(limits):
    image, joints = np.zeros((8, 8)), np.eye(8)
    grids = {"fine": np.arange(64.0).reshape(8, 8) / 64, "coarse": np.arange(4.0).reshape(2, 2)}
    figure = map_figure(image, joints, grids, (2.0, 3.0), limits)
    images = {ax.get_title(): ax.images[0] for ax in figure.axes if ax.get_title()}
    assert list(images) == ["CT and true joints", "fine", "coarse"]
    for title, values in grids.items():
        np.testing.assert_array_equal(images[title].get_array(), values)
        assert images[title].get_clim() == ((0, 2) if any(limits) else (values.min(), values.max()))
        assert images[title].get_extent() == [0, 24, 16, 0]                  # mm, whatever the map's own size
    assert images["CT and true joints"].get_clim() == pytest.approx((0, 1200 / 1400))        # -200 to 1000 HU
    plt.close(figure)
