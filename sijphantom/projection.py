"""What reconstruction from projections leaves in a CT: noise, streaks, beam hardening and metal artefacts.

Parallel-beam projections of a coarse copy of the scan say how much of the beam is left along each line. All
of it varies slowly along z, so the copy has thick slices. Kak and Slaney, Principles of Computerized
Tomographic Imaging (IEEE Press 1988), Secs. 3.2 and 5.2.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from sijphantom.fields import Array
from sijphantom.scanner import Acquisition

_WATER = 0.0195  # 1/mm, attenuation of water at 70 keV (NIST XCOM)
_ANGLES = 40  # projections
_SIZE = 80  # pixels a side of the coarse copy
_SLICE = 8.0  # mm between its slices
_FULL_LENGTH = 5.2  # attenuation of the beam from side to side through an average pelvis
_STARVED = 7.5  # attenuation beyond which hardly a photon arrives
_HARDENING = 0.045  # relative loss of attenuation per unit of attenuation in bone


def project(images: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Sums along parallel lines: (d, n, n) -> (angles, d, n); angle 0 looks along the columns (axis 1)."""
    lines = []
    for angle in angles.tolist():
        c, s = math.cos(angle), math.sin(angle)
        turn = torch.tensor([[[c, -s, 0.0], [s, c, 0.0]]])
        grid = F.affine_grid(turn, [1, 1, *images.shape[1:]], align_corners=False)
        lines.append(F.grid_sample(images[None], grid, align_corners=False)[0].sum(1))
    return torch.stack(lines)


def backproject(lines: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Mean over the angles of projections smeared back: (angles, d, n) -> (d, n, n)."""
    size = lines.shape[-1]
    total = torch.zeros(lines.shape[1], size, size)
    centres = (torch.arange(size) + 0.5) * 2 / size - 1
    for line, angle in zip(lines, angles.tolist()):
        place = math.cos(angle) * centres[None, :] + math.sin(angle) * centres[:, None]  # along the detector
        grid = torch.stack([place, torch.zeros_like(place)], -1)[None]
        total += F.grid_sample(line[None, :, None], grid, align_corners=False, padding_mode="border")[0]
    return total / len(angles)


def ramp(lines: torch.Tensor, pixel: float) -> torch.Tensor:
    """Ramp filter with a Hann window along the last axis (pixel in mm): `backproject` inverts `project`."""
    size = 2 * lines.shape[-1]
    frequency = torch.fft.rfftfreq(size, pixel)
    window = 0.5 + 0.5 * torch.cos(math.pi * frequency / frequency.max())
    spectrum = torch.fft.rfft(lines, size) * (math.pi * frequency * window)
    return torch.fft.irfft(spectrum, size)[..., : lines.shape[-1]]


def add_artefacts(image: Array, scan: Acquisition, rng: np.random.Generator) -> None:
    """Adds noise, beam hardening and, beyond 3000 HU, metal artefacts to a scan (d, h, w) in HU, in place."""
    size = min(_SIZE, scan.matrix)
    slices = max(2, min(scan.slices, round(scan.slices * scan.slice_spacing / _SLICE)))
    coarse = F.adaptive_avg_pool3d(torch.from_numpy(image)[None], (slices, size, size))[0]
    pixel = scan.pixel * scan.matrix / size
    angles = torch.arange(_ANGLES) * (math.pi / _ANGLES)
    attenuation = project((coarse + 1000).clamp(min=0) * (_WATER / 1000 * pixel), angles)
    bone = project((coarse - 150).clamp(min=0) * (_WATER / 1000 * pixel), angles)
    signal = attenuation - scan.hardening * _HARDENING * bone * attenuation
    if image.max() > 3000:
        over = signal - _STARVED
        signal = torch.where(over > 0, _STARVED + 0.35 * over, signal)
    artefact = backproject(ramp(signal - attenuation, pixel), angles) * (1000 / _WATER)
    body = coarse > -300
    flat = artefact - (artefact * body).sum() / body.sum().clamp(min=1)  # the scanner is calibrated
    deviation = backproject((attenuation - _FULL_LENGTH).clamp(-6, 3).exp(), angles).sqrt()
    deviation /= deviation[body].mean() if body.any() else 1.0
    lateral = attenuation[_ANGLES // 2]  # (d, n): rays from side to side, by row
    starved = ((lateral - _FULL_LENGTH) / 2).clamp(-4, 2).exp()
    starved /= starved.max().clamp(min=1e-6)
    _add(image, scan, rng, flat, deviation, starved)


def _add(image: Array, scan: Acquisition, rng: np.random.Generator, artefact: torch.Tensor,
         deviation: torch.Tensor, starved: torch.Tensor) -> None:
    """Slice by slice, the coarse maps enlarged to the image's grid."""
    maps = torch.stack([artefact, deviation])[None]
    spectrum = noise_spectrum(scan)
    for n in range(scan.slices):
        place = (n + 0.5) * maps.shape[2] / scan.slices - 0.5
        low = int(np.clip(np.floor(place), 0, maps.shape[2] - 2))
        share = float(np.clip(place - low, 0, 1))
        both = (1 - share) * maps[:, :, low] + share * maps[:, :, low + 1]
        added, spread = F.interpolate(both, (scan.matrix, scan.matrix), mode="bilinear")[0].numpy()
        grains = grain(rng, scan.matrix, spectrum) * math.sqrt(1 - scan.streaks)
        rows = ((1 - share) * starved[low] + share * starved[low + 1])[None, None]
        rows = F.interpolate(rows, scan.matrix, mode="linear")[0, 0].numpy()
        grains += streaks(rng, scan, rows) * math.sqrt(scan.streaks)
        image[n] += added + scan.noise * spread * grains


def noise_spectrum(scan: Acquisition) -> Array:
    """Square root of the noise power of filtered back projection on the grid of `rfft2`.

    A ramp, cut by the kernel, scaled so that `grain` has unit variance.
    """
    y, x = np.fft.fftfreq(scan.matrix, scan.pixel), np.fft.rfftfreq(scan.matrix, scan.pixel)
    frequency = np.hypot(y[:, None], x)
    power = (frequency + 0.02 * scan.cutoff) * np.exp(-2 * (frequency / (0.6 * scan.cutoff)) ** 2)
    weight = np.full(x.shape, 2.0)
    weight[0] = 1  # columns of rfft2 stand for two, the first and last for one
    weight[-1] = 1 if scan.matrix % 2 == 0 else 2
    return np.sqrt(power / (power * weight).sum() * scan.matrix**2).astype(np.float32)


def grain(rng: np.random.Generator, matrix: int, spectrum: Array) -> Array:
    """Stationary noise (matrix, matrix) of unit variance with this spectrum."""
    white = torch.from_numpy(rng.standard_normal((matrix, matrix), dtype=np.float32))
    return torch.fft.irfft2(torch.fft.rfft2(white) * torch.from_numpy(spectrum), s=white.shape).numpy()


def streaks(rng: np.random.Generator, scan: Acquisition, rows: Array) -> Array:
    """Noise of the rays from side to side, smeared back along them: thin streaks where `rows` is high.

    rows: (matrix,), relative deviation of each row's rays. Returns (matrix, matrix), about unit variance
    where rows is 1.
    """
    angles = rng.uniform(-0.12, 0.12, 6)
    detector = rng.standard_normal((6, scan.matrix), dtype=np.float32) * rows
    detector[:, 1:] -= 0.5 * detector[:, :-1]  # no low frequencies after the ramp filter
    index = np.arange(scan.matrix)
    total = np.zeros((scan.matrix, scan.matrix), np.float32)
    for line, angle in zip(detector, angles):
        shift = np.floor((index - scan.matrix / 2) * np.float32(math.tan(angle))).astype(np.intp)
        margin = int(np.abs(shift).max())
        total += np.pad(line, margin, mode="edge")[index[:, None] + (shift + margin)]
    return total / math.sqrt(6 * 1.25)
