"""Artefacts of reconstruction on bodies whose projections are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sijphantom.projection import add_artefacts, backproject, grain, noise_spectrum, project, ramp
from sijphantom.scanner import Acquisition

SCAN = Acquisition(
    matrix=256, slices=4, pixel=1.4, slice_spacing=3.0, origin=(0.0, 0.0, 0.0), kernel="soft", blur=0.6,
    cutoff=0.5, aperture=1.0, noise=20.0, streaks=0.0, hardening=0.0)


def place(size=SCAN.matrix, pixel=SCAN.pixel):
    """Pixel centres y, x in mm from the middle."""
    return (np.mgrid[:size, :size] - (size - 1) / 2) * pixel


def ellipse(width=340.0, height=220.0):
    """Water in air, (4, 256, 256)."""
    y, x = place()
    body = np.where((2 * x / width) ** 2 + (2 * y / height) ** 2 < 1, 0.0, -1000.0)
    return np.repeat(body[None], SCAN.slices, 0).astype(np.float32)


def rng():
    return np.random.default_rng(0)


def test_projections_of_a_disc_are_its_chords():
    y, x = place(96, 1.0)
    disc = torch.from_numpy(((x - 10) ** 2 + (y + 6) ** 2 < 25**2).astype(np.float32))[None]
    angles = torch.tensor([0.0, math.pi / 2, 1.0])
    lines = project(disc, angles)[:, 0].numpy()
    along = np.arange(96) - 47.5
    for line, angle in zip(lines, angles.tolist()):
        centre = 10 * math.cos(angle) - 6 * math.sin(angle)
        chord = 2 * np.sqrt(np.clip(25**2 - (along - centre) ** 2, 0, None))
        assert np.abs(line - chord).mean() < 0.6


def test_filtered_back_projection_gives_the_disc_back():
    y, x = place(96, 2.0)
    disc = torch.from_numpy(((x - 20) ** 2 + (y + 12) ** 2 < 50**2).astype(np.float32))[None]
    angles = torch.arange(90) * (math.pi / 90)
    back = backproject(ramp(project(disc, angles) * 2.0, 2.0), angles)[0].numpy()
    inside, outside = np.hypot(x - 20, y + 12) < 42, np.hypot(x - 20, y + 12) > 58
    assert back[inside].mean() == pytest.approx(1, abs=0.05) and abs(back[outside].mean()) < 0.05


def test_grain_has_unit_variance_and_the_spectrum_of_a_ramp():
    spectrum = noise_spectrum(SCAN)
    grains = np.stack([grain(np.random.default_rng(seed), SCAN.matrix, spectrum) for seed in range(6)])
    assert grains.std() == pytest.approx(1, rel=0.05)
    power = (np.abs(np.fft.fft2(grains)) ** 2).mean(0)
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SCAN.matrix, SCAN.pixel)] * 2))
    bands = [power[(frequency >= low) & (frequency < high)].mean()
             for low, high in ((0.0, 0.02), (0.1, 0.2), (0.33, 0.36))]
    assert bands[1] > 3 * bands[0], "little noise of low frequency"
    assert bands[1] > 1.5 * bands[2], "the soft kernel cuts high frequencies"
    neighbours = (grains[:, 1:] * grains[:, :-1]).mean()
    assert neighbours > 0.1, "neighbouring pixels are correlated"


def test_noise_has_the_stated_deviation_and_is_worse_in_the_middle():
    image = ellipse()
    body = image > -500
    noisy = image.copy()
    add_artefacts(noisy, SCAN, rng())
    noise = noisy - image
    assert np.sqrt((noise[body] ** 2).mean()) == pytest.approx(SCAN.noise, rel=0.15)
    y, x = place()
    middle, edge = (np.hypot(x, y) < 30), (np.abs(np.hypot(x / 170, y / 110) - 0.93) < 0.05)
    assert noise[:, middle].std() > 1.3 * noise[:, edge].std()
    ratios = []
    for width in (280.0, 400.0):
        done = ellipse(width)
        add_artefacts(done, SCAN, rng())
        rim = np.abs(np.hypot(2 * x / width, y / 110) - 0.93) < 0.05
        ratios.append((done - ellipse(width))[:, middle].std() / (done - ellipse(width))[:, rim].std())
    assert ratios[1] > 1.05 * ratios[0], "the wider the body, the more"


def test_streaks_run_from_side_to_side():
    image = ellipse()
    correlation = {}  # over 20 pixels sideways, at the best of a few small slopes
    for share in (0.0, 0.6):
        noisy = image.copy()
        add_artefacts(noisy, replace(SCAN, streaks=share), rng())
        noise = (noisy - image)[:, 100:156, 60:196]
        pairs = [(noise[:, 4 + k:52 + k, 20:] * noise[:, 4:52, :-20]).mean() for k in range(-3, 4)]
        correlation[share] = max(pairs) / (noise**2).mean()
    assert correlation[0.0] < 0.03 and correlation[0.6] > 0.045


def test_beam_hardening_darkens_the_line_between_two_dense_rods():
    y, x = place()
    image = ellipse()
    for centre in (-90, 90):
        image[:, np.hypot(x - centre, y) < 22] = 900
    found = {}
    for strength in (0.0, 1.0):
        done = image.copy()
        add_artefacts(done, replace(SCAN, noise=0.0, hardening=strength), rng())
        between, above = (np.abs(x) < 40) & (np.abs(y) < 10), (np.abs(x) < 40) & (np.abs(y - 70) < 10)
        found[strength] = done[:, between].mean() - done[:, above].mean()
    assert abs(found[0.0]) < 0.5, "no artefact without hardening"
    assert -150 < found[1.0] < -5


def test_metal_throws_dark_and_bright_streaks_and_only_metal_does():
    y, x = place()
    spread = {}
    for value in (900.0, 9000.0):
        image = ellipse()
        for centre in (-80, 80):
            image[:, np.hypot(x - centre, y) < 12] = value
        done = image.copy()
        add_artefacts(done, replace(SCAN, noise=0.0), rng())
        tissue = (image[0] == 0) & (np.hypot(x, y) < 100)
        spread[value] = np.ptp(np.percentile((done - image)[:, tissue], (1, 99)))
    assert spread[9000.0] > 100 and spread[900.0] < 1


def test_the_same_seed_gives_the_same_noise():
    first, second, other = (ellipse() for _ in range(3))
    add_artefacts(first, SCAN, np.random.default_rng(1))
    add_artefacts(second, SCAN, np.random.default_rng(1))
    add_artefacts(other, SCAN, np.random.default_rng(2))
    assert np.array_equal(first, second) and not np.array_equal(first, other)
