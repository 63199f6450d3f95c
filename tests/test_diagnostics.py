"""What a network uses, against networks whose weights do the same; and what docs/attention.md derives."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from boxes import TINY, write_cohort
from conftest import refused
from torch import nn

from compendium import diagnostics, results
from compendium.diagnostics import diagnose, diagnostics_report, parts, read_diagnostics, watch
from magunet.base.provenance import write_json
from magunet.blocks import CAM, BatchNorm3d, DualAttention
from magunet.checkpoint import write_tensors
from magunet.fast import accelerate, evaluate_by_input
from magunet.model import scales
from magunet.predict import load_model
from magunet.prepare import prepare_case
from magunet.studies import build
from magunet.train import validation_dice

SETTINGS = replace(TINY, precision="float32")


@pytest.fixture
def lively(compendium):
    """A cohort, and the folder of a run whose modules all matter: weights and scales are drawn."""
    cohort, run = write_cohort(compendium / "data" / "boxes", 3), compendium / "runs" / "lively"
    torch.manual_seed(0)
    network = build("MAG-UNet", SETTINGS.width_divisor)
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            if isinstance(module, BatchNorm3d) or name in ("alpha", "beta", "w"):
                nn.init.normal_(weight)
    write_tensors(network.state_dict(), run / "weights.safetensors")
    write_json(run / "run.json", {"network": "MAG-UNet", "seed": 3, "settings": SETTINGS.as_dict(),
                                  "train": [], "val": list(cohort.val), "data_hash": "", "pixel_mm": 2.0})
    return cohort, run


def edited(run, edit):
    """The run's network, in which ``edit`` has changed modules or weights."""
    network = load_model(run, plain=True).network
    with torch.no_grad():
        edit(network)
    return network


class Nothing(nn.Module):
    """0 for whatever comes."""

    def forward(self, x):
        return 0 * x


def opened(*levels):
    """An edit: gates whose last norm says 1 everywhere."""
    def edit(network):
        for level in levels:
            norm = network.decoder[4 - level].gate.gate[1]
            norm.weight.zero_(), norm.bias.fill_(50)
    return edit


def branch_off(i):
    """An edit: a branch of MFF whose norm says 0 everywhere."""
    def edit(network):
        network.down[0].branches[i][1].weight.zero_(), network.down[0].branches[i][1].bias.zero_()
    return edit


EDITS = {"whole network": lambda network: None,
         "without the deepest step": lambda network: setattr(network, "attention", Nothing()),
         "without DA": lambda network: setattr(network, "attention", nn.Identity()),
         "without PAM": lambda network: network.attention.pam.alpha.zero_(),
         "without CAM": lambda network: network.attention.cam.beta.zero_(),
         **{f"without kernel {k}": branch_off(i) for i, k in enumerate((1, 3, 5))},
         "all gates open": opened(1, 2, 3, 4), **{f"gate of level {i} open": opened(i) for i in (1, 2, 3, 4)}}
"""Part -> how weights alone leave it out."""


def test_each_part_is_left_out_as_weights_that_say_the_same_would_and_measured_once(lively, monkeypatch):
    cohort, run = lively
    table = diagnose(run, cohort)
    dice = table.dropna(subset="dice").set_index("part")["dice"]
    assert set(dice.index) == {*EDITS, "by running statistics"}
    cases = {name: prepare_case(cohort.cases[name], SETTINGS)[0] for name in cohort.val}

    def by_hand(network):
        return validation_dice(network, cases, SETTINGS, torch.device("cpu"), torch.float32)

    for part, edit in EDITS.items():
        assert dice[part] == by_hand(edited(run, edit)), part
    assert dice["whole network"] == by_hand(load_model(run).network)                # of the quick layers, too
    network = load_model(run, plain=True).network
    for norm in network.modules():
        norm.__class__ = nn.BatchNorm3d if isinstance(norm, BatchNorm3d) else type(norm)
    assert dice["by running statistics"] == by_hand(network)
    assert dice.nunique() == 14 and table["change"].dropna().tolist() == pytest.approx(
        (100 * (dice - dice["whole network"])).tolist())
    monkeypatch.setattr(diagnostics.train, "validation_dice", None)
    pd.testing.assert_frame_equal(diagnose(run, cohort), table)
    monkeypatch.setattr(diagnostics.train, "validation_dice", validation_dice)
    monkeypatch.setattr(diagnostics, "choose_precision", lambda asked, _: {"float32": torch.bfloat16}[asked])
    assert 0 < (diagnose(run, cohort)["dice"] - table["dice"]).abs().max() < 0.05
    (run / "diagnostics.csv").write_text("network\n")
    refused(lambda: diagnose(run, cohort), "diagnostics.csv", "damaged", "remove it")


def passing_through(network, size=(16, 32, 32)):
    """A function that runs the network on two images of noise and returns logits."""
    images = torch.randn(2, 1, 1, *size, generator=torch.Generator().manual_seed(0))

    def work():
        evaluate_by_input(network)
        with torch.inference_mode():
            return torch.cat([network(image) for image in images])
    return work


def test_dead_channels_are_those_that_a_norm_silences_of_all_that_an_activation_has():
    torch.manual_seed(0)
    network = build("MAG-UNet", 16)
    work = passing_through(network)
    _, deepest, layers = watch(network, work)
    assert deepest == (1, 2, 2) and sum(channels for grid, _, channels in layers if grid == deepest) == 3 * 32
    assert not sum(dead for _, dead, _ in layers)           # of fresh norms each channel has a mean of 0
    for norm, count, bias in ((network.encoder[4][1][1], 5, -1.0), (network.encoder[0][0][1], 1, 1.0)):
        norm.weight.data[:count], norm.bias.data[:count] = 1e-9, bias               # nothing, and a constant
    dead = [(grid, dead) for grid, dead, _ in watch(network, work)[2] if dead]
    assert dead == [((16, 32, 32), 1), ((1, 2, 2), 5)]


@pytest.mark.parametrize("name, deepest", [
    ("TransUNet", (1, 2, 2)), *(pytest.param(*row, marks=pytest.mark.slow) for row in (
        ("3D V-Net", (1, 2, 2)), ("UNETR", (1, 2, 2)), ("SegNet", (2, 2, 4)), ("nnU-Net", (2, 1, 1)),
        ("SegResNet", (2, 4, 4)), ("DeepLabv3+", (1, 2, 2)), ("SwinUNETR", (1, 1, 2))))])
def test_without_its_deepest_step_a_peer_answers_the_same_whatever_that_steps_weights_are(name, deepest):
    torch.manual_seed(0)
    network, there = build(name, 16), set()
    work = passing_through(network)
    hooks = [module.register_forward_hook(lambda module, inputs, output: there.add(module)
             if output.shape[2:] == deepest else None) for module in network.modules()
             if isinstance(module, nn.Conv3d | nn.ConvTranspose3d)]
    whole, grid, _ = watch(network, work)
    assert grid == deepest and there and [hook.remove() for hook in hooks]
    answers = []
    for _ in range(2):
        with parts(network, grid)["without the deepest step"]:
            answers.append(work())
        for module in there:
            nn.init.normal_(module.weight)
    assert torch.equal(*answers) and not torch.allclose(work(), whole, atol=1e-4)
    assert not any(module._forward_hooks for module in network.modules())


def test_scales_are_those_of_modules_by_hand_also_of_quick_layers_and_none_of_others():
    network = build("MAG-UNet", 16)
    da, values = network.attention, torch.linspace(-1, 1, 32 * 32)
    with torch.no_grad():
        da.pam.alpha.fill_(-0.5), da.cam.beta.fill_(0.25), da.w.copy_(torch.tensor([0.0, np.log(3)]))
        da.pam.D.weight.copy_(values.view(32, 32, 1, 1, 1)), network.decoder[3].gate.gate[1].weight.fill_(-2)
        network.down[0].branches[1][1].weight.copy_(torch.tensor([3.0, 4.0, 0.0, 0.0]))
    sizes = scales(accelerate(network))
    by_hand = {"PAM alpha": -0.5, "CAM beta": 0.25, "DA weight of PAM": 0.25, "DA weight of CAM": 0.75,
               "PAM D": np.sqrt(np.mean(np.linspace(-1, 1, 1024)**2)), "gate of level 1": -2,
               "gate of level 4": 1, "kernel 3": 2.5, "kernel 5": 1}
    assert {name: sizes[name] for name in by_hand} == pytest.approx(by_hand)
    assert len(sizes) == 7 + 3 + 4 and list(scales(build("[3,3]", 16))) == ["kernel 3", "kernel 3, no. 2"]
    assert scales(build("SegNet", 16)) == scales(build("3D U-Net", 16)) == {}


def rows(network, seed, **parts):
    """Measurements of a run: Dice of parts, or (dead, channels)."""
    whole = parts["whole network"]
    return pd.DataFrame([{"network": network, "seed": seed, "part": part, "key": "0e1"} | (
        dict(zip(("dead", "channels"), value)) if isinstance(value, tuple) else
        {"dice": value, "change": 100 * (value - whole)}) for part, value in parts.items()])


def test_the_report_has_a_row_a_network_and_mean_and_sd_over_seeds(tmp_path):
    tables = [rows("MAG-UNet", seed, **{"whole network": 0.8, "without DA": 0.8 - change,
                                        "all gates open": 0.8, "deepest level": (dead, 96)})
              for seed, change, dead in ((0, 0.01, 40), (1, 0.03, 44))]
    tables.append(rows("SegNet", 0, **{"whole network": 0.7, "without the deepest step": 0.1,
                                       "deepest level": (0, 64)}))
    pd.concat(tables).to_csv(tmp_path / "diagnostics.csv", index=False)
    report = diagnostics_report(read_diagnostics(tmp_path))
    cells = {part: table[part].to_dict() for table in report.tables.values() for part in table}
    assert cells == {
        "whole network": {"MAG-UNet": "80.0 ± 0.0", "SegNet": "70.0"},
        "without the deepest step": {"MAG-UNet": "-", "SegNet": "-60.0"},
        "without DA": {"MAG-UNet": "-2.0 ± 1.4"}, "all gates open": {"MAG-UNet": "0.0 ± 0.0"},
        "deepest level": {"MAG-UNet": "42.0 ± 2.8 of 96", "SegNet": "0.0 of 64"}}
    assert len(report.csv().splitlines()) == 1 + 4 + 4 + 3


def test_what_runs_use_and_their_scales_are_stored_and_written_again(lively, monkeypatch):
    """A run whose log has scales, and one of a peer, which has none and was not looked into."""
    cohort, run = lively
    (peer := run.with_name("peer")).mkdir()
    for folder, values in ((run, ({"PAM alpha": 0.0, "gate of level 1": 1.0}, {"PAM alpha": -0.5})),
                           (peer, ({}, {}))):
        lines = [{"epoch": i, "loss": 1.0, "val_dice": 0.5, "scales": each}
                 for i, each in enumerate(values, 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = diagnose(run, cohort)
    runs = {("MAG-UNet", 3): run, ("SegNet", 0): peer}
    monkeypatch.setattr(results, "finished_runs", lambda *_, **__: runs)
    record = {"data_hash": "", "train": [], "val": []}
    monkeypatch.setattr(results, "collect", lambda *_, **__: results.Results(
        SETTINGS, [record], pd.DataFrame(columns=["case"]), pd.DataFrame(columns=["case"])))
    files = results.store(SETTINGS, folder := run.with_name("stored"))
    assert {"scales.csv", "diagnostics.csv"} < {path.name for path in files}
    assert pd.read_csv(folder / "scales.csv").to_numpy().tolist() == [
        ["MAG-UNet", 3, 1, "PAM alpha", 0.0], ["MAG-UNet", 3, 1, "gate of level 1", 1.0],
        ["MAG-UNet", 3, 2, "PAM alpha", -0.5]]
    assert list(pd.read_csv(folder / "curves.csv")) == ["network", "seed", "epoch", "loss", "val_dice"]
    pd.testing.assert_frame_equal(read_diagnostics(folder), table, rtol=1e-3)


def trained_da(optimizer, weight_decay, alpha=True, steps=100):
    """DA on one map, trained towards another by a loss whose pull is below the decay's; D before and after,
    the pull (length of the mixed second derivative by alpha and D, where alpha is 0), and alpha."""
    torch.manual_seed(0)
    da, x, y = DualAttention(8, 2), torch.relu(torch.randn(1, 8, 2, 3, 3)), torch.randn(1, 8, 2, 3, 3)
    before = da.pam.D.weight.detach().clone()
    da.pam.alpha.requires_grad_(alpha)

    def loss():
        return 0.01 * (da(x) - y).square().mean()

    pull = torch.zeros(1)
    if alpha:
        slope, = torch.autograd.grad(loss(), da.pam.alpha, create_graph=True)
        pull = torch.cat([part.flatten() for part in torch.autograd.grad(slope, da.pam.D.parameters())])
    adam = optimizer(da.parameters(), lr=4e-3, weight_decay=weight_decay)
    for step in range(steps):
        adam.param_groups[0]["lr"] = 4e-3 * (0.5 + 0.5 * np.cos(np.pi * step / steps)) if alpha else 4e-3
        adam.zero_grad()
        loss().backward()
        adam.step()
    return before, da.pam.D.weight.detach(), pull.norm().item(), da.pam.alpha.item()


def test_coupled_decay_annihilates_pam_where_the_loss_pulls_less_than_it_and_nothing_else_does():
    before, after, pull, alpha = trained_da(torch.optim.Adam, 1e-4, steps=500)
    print(f"pull {pull:.1e}; rms of D {before.square().mean().sqrt():.2g}, then "
          f"{after.square().mean().sqrt():.0e}; alpha {alpha:.0e}")
    assert 0 < pull < 1e-4 and abs(alpha) < 1e-9 and after.square().mean() < 1e-6 * before.square().mean()
    for other in ((torch.optim.Adam, 0), (torch.optim.AdamW, 1e-4)):
        before, after, _, alpha = trained_da(*other)
        assert after.square().mean() > before.square().mean() and abs(alpha) > 0.1, other


def test_with_alpha_at_0_decay_alone_moves_d_by_the_learning_rate_a_step_however_small_it_is():
    for decay in (1e-4, 1e-2):
        before, after, *_ = trained_da(torch.optim.Adam, decay, alpha=False, steps=10)
        far = before.abs() > 0.2
        assert far.sum() > 20
        assert (before - after)[far].tolist() == pytest.approx((0.04 * before[far].sign()).tolist(), rel=0.03)
    assert torch.equal(*trained_da(torch.optim.Adam, 0, alpha=False, steps=10)[:2])     # it was the decay's


def test_at_the_papers_size_cam_is_the_identity_and_da_ignores_beta_but_not_on_16_positions():
    weights, changes = {}, {}
    for grid in ((3, 16, 16), (3, 6, 6), (2, 2, 4)):
        torch.manual_seed(0)
        norm, da = BatchNorm3d(128), DualAttention(128)
        with torch.no_grad():
            x = torch.relu(norm(torch.randn(1, 128, *grid)))
            a = x.flatten(2)[0]
            weights[grid] = torch.softmax(a @ a.mT, dim=-1)
            outputs = [da(x) for da.cam.beta.data[:] in (torch.tensor([0.0]), torch.tensor([1.0]))]
        changes[grid] = float((outputs[1] - outputs[0]).norm() / outputs[0].norm())
    print({grid: (float(weights[grid].diagonal().mean()), changes[grid]) for grid in weights})
    assert torch.allclose(weights[3, 16, 16], torch.eye(128), atol=1e-6) and changes[3, 16, 16] < 1e-4
    assert weights[2, 2, 4].diagonal().mean() < 0.8 and changes[2, 2, 4] > 0.05         # the cpu profile's


def test_cam_picks_the_channel_itself_unless_another_is_longer_along_it():
    """Channels of length 10 and 5, an angle between them: 5 * 5 against 10 * 5 * cos; and a dead one."""
    for cosine, itself in ((0.4, True), (0.6, False)):
        a = torch.tensor([[10.0, 0], [5 * cosine, 5 * (1 - cosine**2) ** 0.5], [0, 0]])
        added = CAM(start=1)(a.view(1, 3, 1, 1, 2)).detach().view(3, 2) - a
        assert (torch.cdist(added[:2], a).argmin(1) == torch.tensor([0, int(itself)])).all()
        assert torch.allclose(added[2], a.mean(0))
