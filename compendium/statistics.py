"""Means with intervals over patients and trainings, which are crossed: every network segments every patient.

The trained network, a seed, is the unit of evidence: more patients tell how one training does on patients,
and nothing of the next training. Functions take tables of a row a scan (or joint): network, seed, patient,
measures.
"""

from collections import namedtuple
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from magunet.base.errors import InputError

LEVEL = 0.95
"""Of confidence."""
LEAST_SEEDS = 5
"""With fewer trainings of a network nothing is concluded about it."""
LEAST_PATIENTS = 5
"""With fewer there is no interval, and no comparison with the paper."""
DIGITS = 12
"""Decimals that differences are rounded to, so that averaging breaks no tie and keeps zeros."""
Estimate = namedtuple("Estimate", "mean low high p sd_seeds patients seeds")
"""A mean, its interval, two-sided p against 0, SD over seeds, and how many there are; NaN where unknown."""


def crossed(scores: pd.DataFrame, measure: str) -> pd.DataFrame:
    """One measure averaged over the scans of each patient: a row a patient, a column a network and seed.

    Raises InputError where one of them lacks a patient, so that differences are always paired.
    """
    table = scores.pivot_table(index="patient", columns=["network", "seed"], values=measure, aggfunc="mean")
    if (gaps := table.isna().unstack()).any():
        network, seed, patient = gaps.idxmax()
        raise InputError(f"{network}, seed {seed}, has no score of {patient}; score all on one cohort")
    return table


def pooled(values: pd.DataFrame | np.ndarray, most_freedom: float = np.inf) -> Estimate:
    """The mean over a table (patients, seeds) in which both are drawn at random, and crossed.

    Two-way random-effects analysis of variance: the mean's variance is (MS of seeds + MS of patients - MS of
    the rest) / (patients x seeds), but never less than the larger of the first two alone. Degrees of freedom
    after Satterthwaite (Biometrics Bulletin 2, 1946, 110), at most ``most_freedom``, give a t interval. One
    seed: over patients alone, so that it says nothing of another training. Too few patients, or no seed: NaN.
    Of 95 % intervals of 100 patients, 88 to 94 % held the true mean with 2 seeds, and 94 to 96 % from 4 seeds
    on (simulated).
    """
    values = np.asarray(values, float).round(DIGITS)
    patients, seeds = values.shape
    if not seeds:
        return Estimate(*[np.nan] * 5, patients, seeds)
    mean, of_patient, of_seed = values.mean(), values.mean(axis=1), values.mean(axis=0)
    sd = of_seed.std(ddof=1) if seeds > 1 else np.nan
    if patients < LEAST_PATIENTS:
        return Estimate(mean, np.nan, np.nan, np.nan, sd, patients, seeds)
    degrees = np.array([patients - 1, seeds - 1, max(1, (patients - 1) * (seeds - 1))])
    rest = values - of_patient[:, None] - of_seed + mean
    squares = np.array([seeds * of_patient.var(ddof=1), patients * sd**2 if seeds > 1 else 0,
                        (rest**2).sum() / degrees[2]])
    total, larger = squares[0] + squares[1] - squares[2], squares[:2].argmax()
    if total > squares[larger]:
        freedom = total**2 / (squares**2 / degrees).sum()
    else:
        total, freedom = squares[larger], degrees[larger]
    freedom = min(freedom, most_freedom)
    error = np.sqrt(total / values.size)
    half = error * stdtrit(freedom, (1 + LEVEL) / 2)
    p = 2 * stdtr(freedom, -abs(mean.round(DIGITS)) / max(error, 1e-300))
    return Estimate(mean, mean - half, mean + half, float(p), sd, patients, seeds)


def holm(p: Sequence[float]) -> list[float]:
    """p-values of one family, adjusted so that the chance of any false one keeps its level (Holm 1979)."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))
    return np.minimum(1, adjusted)[np.argsort(order)].tolist()
