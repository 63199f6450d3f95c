"""Golden values: a seeded tiny training gives these losses and scores, here and on other processors.

Measured on an AMD EPYC with torch 2.13; with another number of threads, and without oneDNN, whose sums run in
another order, losses moved by up to 0.0016 and a Dice by up to 0.010. The tolerances are a few times that.
Since the head starts at the log odds of the target, the first loss is lower by half. Whoever changes what is
computed on purpose stores what the assertion shows.
"""

import json
from dataclasses import replace

import pytest
from boxes import TINY, write_cohort

from compendium.results import summary
from compendium.scores import score_run
from magunet import runs
from magunet.volume import read_volume, same_geometry

GOLDEN = {
    "MAG-UNet": ([1.0309, 0.8552, 0.7243, 0.6413, 0.5908, 0.5783], [0.133, 0.532, 0.704, 0.778, 0.793, 0.791],
                 dict(dice=0.824, iou=0.701, precision=0.931, recall=0.739, nsd=0.456),
                 dict(hd95=4.48, assd=1.59)),
    "3D U-Net": ([0.7614, 0.5284, 0.4302, 0.3535, 0.3007, 0.3002], [0.811, 0.938, 0.968, 0.989, 0.995, 0.996],
                 dict(dice=0.996, iou=0.992, precision=1.0, recall=0.992, nsd=0.987),
                 dict(hd95=0.0, assd=0.03))}
"""Losses and validation Dice of each epoch, and scores, those in mm apart."""
LOSS, SHARE, MILLIMETRES = 0.005, 0.03, 0.3
"""Tolerances: of a loss, of a score in [0, 1], of a distance."""


@pytest.mark.parametrize("network", GOLDEN)
def test_a_seeded_training_gives_the_golden_losses_and_scores(network, compendium):
    cohort = write_cohort(compendium / "data" / "boxes")
    run = runs.fit(network, replace(TINY, precision="float32", learning_rate=0.02), 0, cohort)
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses, curve, shares, distances = GOLDEN[network]
    assert [entry["loss"] for entry in log] == pytest.approx(losses, abs=LOSS)
    assert [entry["val_dice"] for entry in log] == pytest.approx(curve, abs=SHARE)
    table = score_run(run, cohort)
    (row,) = table.to_dict("records")
    assert {name: row[name] for name in shares} == pytest.approx(shares, abs=SHARE)
    assert {name: row[name] for name in distances} == pytest.approx(distances, abs=MILLIMETRES)
    assert [row["case"]] == list(cohort.val) and summary(table).loc[network, "cases"] == 1
    volumes = [*map(read_volume, (run / f"masks/{row['case']}.nii.gz", cohort.cases[row["case"]].label))]
    mask, truth = (volume.array > 0 for volume in volumes)
    assert same_geometry(*volumes)
    assert row["dice"] == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()), abs=6e-5)
