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


Y, X = place()


def ellipse(width=340.0, height=220.0):
    """Water in air, (4, 256, 256)."""
    body = np.where((2 * X / width) ** 2 + (2 * Y / height) ** 2 < 1, 0.0, -1000.0)
    return np.repeat(body[None], SCAN.slices, 0).astype(np.float32)


def disc(radius, pixel):
    """A disc of 1 that lies off the middle of 96 pixels by 0.4 and -0.24 of its radius, (1, 96, 96)."""
    y, x = place(96, pixel)
    return torch.from_numpy((np.hypot(x - 0.4 * radius, y + 0.24 * radius) < radius).astype(np.float32))[None]


def artefacts(image, seed=0, **changes):
    """What reconstruction adds to a scan."""
    done = image.copy()
    add_artefacts(done, replace(SCAN, **changes), np.random.default_rng(seed))
    return done - image


def test_projections_of_a_disc_are_its_chords():
    angles = [0.0, math.pi / 2, 1.0]
    lines = project(disc(25, 1.0), torch.tensor(angles))[:, 0].numpy()
    along = np.arange(96) - 47.5
    for line, angle in zip(lines, angles):
        centre = 10 * math.cos(angle) - 6 * math.sin(angle)
        chord = 2 * np.sqrt(np.clip(25**2 - (along - centre) ** 2, 0, None))
        assert np.abs(line - chord).mean() < 0.6, angle


def test_filtered_back_projection_gives_the_disc_back():
    angles = torch.arange(90) * (math.pi / 90)
    back = backproject(ramp(project(disc(50, 2.0), angles) * 2.0, 2.0), angles)[0].numpy()
    y, x = place(96, 2.0)
    inside, outside = np.hypot(x - 20, y + 12) < 42, np.hypot(x - 20, y + 12) > 58
    assert back[inside].mean() == pytest.approx(1, abs=0.05) and abs(back[outside].mean()) < 0.05


def test_grain_has_unit_variance_and_the_spectrum_of_a_ramp():
    spectrum = noise_spectrum(SCAN)
    grains = np.stack([grain(np.random.default_rng(seed), SCAN.matrix, spectrum) for seed in range(6)])
    assert grains.std() == pytest.approx(1, rel=0.05)
    power = (np.abs(np.fft.fft2(grains)) ** 2).mean(0)
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SCAN.matrix, SCAN.pixel)] * 2))
    low, middle, high = (power[(frequency >= start) & (frequency < end)].mean()
                         for start, end in ((0.0, 0.02), (0.1, 0.2), (0.33, 0.36)))
    assert middle > 3 * low, "little noise of low frequency"
    assert middle > 1.5 * high, "the soft kernel cuts high frequencies"
    assert (grains[:, 1:] * grains[:, :-1]).mean() > 0.1, "neighbouring pixels are correlated"


def test_noise_has_the_stated_deviation_is_worse_in_the_middle_and_the_same_for_a_seed():
    noise, middle, ratios = artefacts(ellipse()), np.hypot(X, Y) < 30, {}
    assert np.sqrt((noise[ellipse() > -500] ** 2).mean()) == pytest.approx(SCAN.noise, rel=0.15)
    assert np.array_equal(noise, artefacts(ellipse())) and not np.array_equal(noise, artefacts(ellipse(), 1))
    for width in (280.0, 340.0, 400.0):
        noise, rim = artefacts(ellipse(width)), np.abs(np.hypot(2 * X / width, Y / 110) - 0.93) < 0.05
        ratios[width] = noise[:, middle].std() / noise[:, rim].std()
    assert ratios[340.0] > 1.3
    assert ratios[400.0] > 1.05 * ratios[280.0], "the wider the body, the more"


def test_streaks_run_from_side_to_side():
    correlation = {}  # over 20 pixels sideways, at the best of a few small slopes
    for share in (0.0, 0.6):
        noise = artefacts(ellipse(), streaks=share)[:, 100:156, 60:196]
        pairs = [(noise[:, 4 + k:52 + k, 20:] * noise[:, 4:52, :-20]).mean() for k in range(-3, 4)]
        correlation[share] = max(pairs) / (noise**2).mean()
    assert correlation[0.0] < 0.03 and correlation[0.6] > 0.045


def with_rods(distance, radius, hu):
    """The ellipse with two rods of this density at its sides."""
    return np.where(np.hypot(np.abs(X) - distance, Y) < radius, np.float32(hu), ellipse())


def test_beam_hardening_darkens_the_line_between_two_dense_rods():
    between, above = ((np.abs(X) < 40) & (np.abs(Y - y) < 10) for y in (0, 70))
    for strength, low, high in ((0.0, -0.5, 0.5), (1.0, -150, -5)):
        added = artefacts(with_rods(90, 22, 900), noise=0.0, hardening=strength)
        assert low < added[:, between].mean() - added[:, above].mean() < high, strength


def test_metal_throws_dark_and_bright_streaks_and_only_metal_does():
    tissue = (ellipse()[0] == 0) & (np.hypot(X, Y) < 100) & (np.hypot(np.abs(X) - 80, Y) >= 12)
    for hu, low, high in ((900, 0, 1), (9000, 100, np.inf)):
        added = artefacts(with_rods(80, 12, hu), noise=0.0)
        assert low <= np.ptp(np.percentile(added[:, tissue], (1, 99))) < high, hu
