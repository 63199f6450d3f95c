"""Every fast way computes what the plain way does: to the bit where nothing is rounded, else closely."""

from contextlib import ExitStack
from dataclasses import asdict, replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from boxes import TINY
from test_cli import call

from compendium import plain as module
from compendium.plain import plain
from magunet import augment, distance, prepare, target, train
from magunet.base import device, profiles
from magunet.blocks import LGAG, MFF, PAM, Branch
from magunet.fast import BatchNorm, Conv3d, MaxPool, evaluate_by_input
from magunet.metrics import overlap
from magunet.model import DecoderStep, MAGUNet, MAGUNetConfig
from magunet.predict import load_model
from magunet.prepare import Prepared
from magunet.studies import build
from magunet.surfaces import surface_scores
from magunet.volume import Volume, read_volume, write_volume
from sijphantom import scanner
from sijphantom.phantom import make_phantom

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made():
    return make_phantom(3, matrix=96, slices=(40, 40))


def both(work):
    """What work returns the fast way and the plain way."""
    fast = work()
    with plain():
        return fast, work()


def test_everything_is_as_it_was_afterwards():
    with patch.object(module, "patch", wraps=patch) as used:
        before = prepare.SLAB, torch.channels_last_3d, augment.where_seen, target._common_box, distance.NEAR
        with plain():
            assert prepare.SLAB == module.EVERYTHING and torch.channels_last_3d is torch.contiguous_format
        assert before == (prepare.SLAB, torch.channels_last_3d, augment.where_seen, target._common_box, distance.NEAR)
        assert used.object.called


def test_precision_is_float32():
    with plain():
        assert device.choose_precision("auto", CPU) == torch.float32


def test_phantoms_are_the_same_voxels(made):
    with plain():
        assert scanner._SLAB == module.EVERYTHING
        again = make_phantom(3, matrix=96, slices=(40, 40))
    assert np.array_equal(made.image, again.image) and np.array_equal(made.mask, again.mask)


@pytest.mark.parametrize("slice_mm", [None, 2.5])
def test_preparation_and_restoration_are_the_same_voxels(made, slice_mm):
    scan, mask = Volume(made.image, made.spacing), Volume(made.mask, made.spacing)
    settings = replace(TINY, size=40, slice_mm=slice_mm, margin_mm=5.0)

    def there_and_back():
        prepared, frame = prepare.prepare(scan, mask, settings)
        return prepared.image, prepared.mask, prepare.restore_mask(prepared.image, frame, 0.3).array

    for fast, slow in zip(*both(there_and_back)):
        assert np.array_equal(fast, slow)


@pytest.mark.parametrize("seed", range(4))
def test_augmentation_is_the_same_voxels(made, seed):
    image = torch.from_numpy(prepare.clip_and_scale(made.image))[None, None]
    mask = torch.from_numpy(made.mask)[None, None]

    def moved():
        return augment.augment(image, mask, made.spacing, torch.Generator().manual_seed(seed))

    with patch.object(augment, "AUGMENTATION_PROBABILITY", 1.0):
        (image_, mask_), (image__, mask__) = both(moved)
    torch.testing.assert_close(image_, image__, rtol=0, atol=1e-6)
    assert torch.equal(mask_, mask__) and 0 < mask_.sum() < mask_.numel()


def test_scores_are_the_same(made):
    moved = np.roll(made.mask, (1, 2), (0, 2))
    fast, slow = both(lambda: surface_scores(moved, made.mask, made.spacing))
    assert asdict(fast) == pytest.approx(asdict(slow), rel=1e-12)


def test_the_target_is_nearly_the_same():                # its distances are on a grid that begins where the box does
    sacrum, left, right = np.zeros((3, 30, 40, 90), bool)
    sacrum[8:22, 12:30, 35:55], left[6:24, 12:26, 58:75], right[9:20, 14:30, 12:33] = True, True, True
    fast, slow = both(lambda: target.sij_mask(sacrum, left, right, (3.0, 1.5, 1.5)))
    assert overlap(fast, slow).dice > 0.985


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_the_same_up_to_where_they_are_cut_off(seed):
    from scipy import ndimage
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(30, 40, 50)), 3)
    mask = np.zeros((60, 90, 100), bool)
    mask[15:45, 25:65, 25:75] = noise > 0.03
    fast, slow = both(lambda: distance.mask_distance(mask, (1.5, 1.0, 1.2), 1.0))
    near = np.abs(slow) < 30
    assert 0.05 < near.mean() < 1 and np.array_equal(fast[near], slow[near]) and (fast[~near] >= 30).all()


def test_attention_is_the_same():
    torch.manual_seed(0)
    pam, x = PAM(16), torch.randn(1, 16, 4, 6, 5)
    torch.nn.init.constant_(pam.alpha, 0.8)
    fast, slow = both(lambda: pam(x).detach())
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_branch_of_mff_and_its_gradients_are_the_same_to_the_bit(seed):
    def answers():
        torch.manual_seed(seed)
        branch, x = Branch(4, 6, 3), torch.randn(1, 4, 9, 10, 8, requires_grad=True)
        torch.nn.init.uniform_(branch[1].bias, -2, 1)                       # so that whole cells of the pooling are cut off
        answer = branch(x)
        answer.square().sum().backward()
        return [answer.detach(), x.grad, *(p.grad for p in branch.parameters())]

    fast, slow = both(answers)
    assert (fast[0] == 0).float().mean() > 0.02 and all(map(torch.equal, fast, slow))


def network_for_predictions(name, divisor=8):
    torch.manual_seed(1)
    network = build(name, divisor)
    for norm in (m for m in network.modules() if isinstance(m, BatchNorm)):
        torch.nn.init.uniform_(norm.bias, -1, 1)
    evaluate_by_input(network)
    return network


def predicted(network, x, precision, *not_in_place):
    with torch.inference_mode(), device.autocast(CPU, precision), ExitStack() as kept:
        for part in network.modules():
            if isinstance(part, not_in_place):
                kept.enter_context(patch.object(part, "in_place", False))
        return network(x).float()


@pytest.mark.parametrize("name", ["MAG-UNet", "+LGAG", "3D U-Net"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_prediction_that_overwrites_its_maps_is_the_same_to_the_bit(name, precision):
    network, x = network_for_predictions(name), torch.randn(1, 1, 50, 40, 36)
    fast = predicted(network, x, precision)
    assert torch.equal(fast, predicted(network, x, precision, BatchNorm, MaxPool, LGAG)) and fast.std() > 0.1


@pytest.mark.parametrize("name", ["MAG-UNet", "+MFF", "3D U-Net"])
@pytest.mark.parametrize("size", [(50, 40, 36), (16, 16, 16)])
def test_a_prediction_that_joins_no_maps_is_as_exact_as_one_that_does(name, size):
    network, x = network_for_predictions(name), torch.randn(1, 1, *size)
    joins, exact = (MFF, DecoderStep), predicted(network.double(), x.double(), torch.float32, MFF, DecoderStep)
    network.float()
    for precision, error in ((torch.float32, 1e-4), (torch.bfloat16, 0.2)):
        fast, plainly = (predicted(network, x, precision, *kinds) - exact for kinds in ((), joins))
        assert not torch.equal(fast, plainly)                                # two ways indeed
        assert fast.abs().mean() <= 1.2 * plainly.abs().mean() + 1e-7 and fast.abs().mean() < error * exact.std()


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [(6, 7, 5), (2, 4, 2)])
def test_a_convolution_of_maps_apart_is_that_of_the_joined_map(kernel, size):
    torch.manual_seed(0)
    conv, maps = Conv3d(6, 4, kernel, padding=kernel // 2).double(), [torch.randn(2, c, *size).double() for c in (1, 3, 2)]
    with torch.no_grad():
        torch.testing.assert_close(conv.of_joined(iter(maps)), conv(torch.cat(maps, dim=1)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decoder", ["merge", "trilinear", "classic"])
def test_every_decoder_that_concatenates_may_leave_it_away(decoder):
    torch.manual_seed(0)
    config = MAGUNetConfig(widths=(4, 8, 16, 32, 64), mff_kernels=None, lgag=False, decoder=decoder)
    network, x = MAGUNet(config), torch.randn(1, 1, 20, 24, 16)
    evaluate_by_input(network)
    with patch.object(torch, "cat", side_effect=torch.cat) as joined:
        fast = predicted(network, x, torch.float32)
        assert not joined.called
        torch.testing.assert_close(fast, predicted(network, x, torch.float32, DecoderStep), rtol=1e-3, atol=1e-4)
        assert joined.call_count == 4


@pytest.mark.parametrize("size", [(2, 3, 5, 4, 7), (1, 3, 4, 2, 6), (1, 4, 8, 9, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_in_place_finds_the_same_maxima(size, dtype):
    x = torch.randn(size).to(dtype)
    x[0, 0, 0, 0, 0], x[0, 1] = torch.nan, -torch.inf
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        laid, pool = x.contiguous(memory_format=layout), MaxPool(in_place=True)
        expected = torch.nn.functional.max_pool3d(laid, 2)
        assert torch.equal(pool(laid).nan_to_num(7), expected.nan_to_num(7)) and torch.equal(laid.nan_to_num(7), x.nan_to_num(7))
        with torch.no_grad():
            answer = pool(laid.clone())
        assert torch.equal(answer.nan_to_num(7), expected.nan_to_num(7)) and answer.stride() == expected.stride()


@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-3), ("auto", 0.05)])
def test_training_takes_the_same_step(precision, tolerance):
    rng = np.random.default_rng(0)
    image = rng.random((20, 32, 32), np.float32)
    cases = {"a": Prepared(image, (image > 0.7).astype(np.uint8), (3.0, 2.0, 2.0))}
    settings = replace(TINY, precision=precision)

    def epoch():
        state = train.new_state("MAG-UNet", settings, 0, 10, CPU)
        assert isinstance(state.network, MAGUNet)
        return [train.train_epoch(state, cases, settings, CPU, device.choose_precision(precision, CPU)) for _ in range(2)]

    fast, slow = both(epoch)
    assert fast == pytest.approx(slow, rel=tolerance)


def test_prediction_finds_the_same_mask(run):
    scan = read_volume(run.parents[1] / "data/boxes/imagesTr/box_0_0000.nii.gz")
    fast, slow = both(lambda: load_model(run).segment(scan).array)
    assert fast.any() and overlap(fast, slow).dice > 0.99


def test_verbs_take_the_switch(run, tmp_path, capsys):
    made = make_phantom(0, matrix=32, slices=(20, 20))
    write_volume(Volume(made.image, made.spacing), tmp_path / "ct.nii.gz")
    asked = []
    choose = device.choose_precision
    with patch("magunet.predict.choose_precision", lambda *given: asked.append(choose(*given)) or asked[-1]):
        for words in ((), ("--plain",)):
            status, *_ = call(capsys, "predict", *words, str(tmp_path / "ct.nii.gz"), "--model", str(run), "--out",
                              str(tmp_path / "out"), "--formats", "nifti")
            assert status == 0
    assert asked == [choose("auto", CPU), torch.float32]
    assert profiles.load("smoke").precision == "auto"
