"""A study that was never run, as `magunet tables --out` stores one: numbers at random, seeded."""

import json

import numpy as np
import pandas as pd

from magunet.base import profiles

EPOCHS = 7


def scores_of(networks, seeds=(0, 1), patients=6, effects=(), sd=0.01):
    """Scores by case and by joint of every network, seed and patient; ``effects``: network -> added Dice."""
    rng, rows = np.random.default_rng(7), []
    difficulty = rng.normal(0.8, 0.03, patients)
    for network in networks:
        for seed in seeds:
            level = dict(effects).get(network, 0) + rng.normal(0, sd)
            for patient, dice in enumerate(difficulty + level + rng.normal(0, 0.01, patients)):
                name = f"phantom_{patient:03d}"
                rows.append({"network": network, "seed": seed, "case": name, "patient": name, "dice": dice,
                             "grade_left": patient % 5, "grade_right": 0, "iou": dice / (2 - dice),
                             "precision": dice, "recall": dice, "dice_within": dice + 0.01,
                             "hd95": 10 * (1 - dice), "assd": 1 - dice, "nsd": dice, "undefined": 0,
                             "truth_ml": 20.0, "predicted_ml": 18.0, "missed": 0, "seconds": 2.0,
                             "peak_memory_mb": 900.0})
    scores = pd.DataFrame(rows)
    sides = [scores.assign(side=side, grade=scores[f"grade_{side}"]) for side in ("left", "right")]
    return scores, pd.concat(sides, ignore_index=True)


def store_study(folder, networks, seeds=(0, 1), **more):
    """Writes the four files of a study of profile cpu into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    scores, sides = scores_of(networks, seeds, **more)
    runs = [(network, seed) for network in networks for seed in seeds]
    curves = [{"network": network, "seed": seed, "epoch": epoch, "loss": 1.7 / epoch + 0.01 * number,
               "val_dice": 0.8 - 0.5 / epoch + 0.01 * seed, "learning_rate": 1e-3, "seconds": 9.0}
              for number, (network, seed) in enumerate(runs) for epoch in range(1, 1 + EPOCHS)]
    records = [{"network": network, "seed": seed, "epochs": EPOCHS, "settings_hash": f"{number:010x}",
                "scored_on": "two cores", "seconds": 600.0 + 60 * seed, "peak_memory_mb": 700.0 + seed}
               for number, (network, seed) in enumerate(runs)]
    for name, table in (("scores.csv.xz", scores), ("scores_by_side.csv.xz", sides),
                        ("curves.csv", pd.DataFrame(curves))):
        table.to_csv(folder / name, index=False)
    shared = {"settings": profiles.load("cpu").as_dict(), "data_hash": "0", "train": [], "val": []}
    (folder / "runs.json").write_text(json.dumps(shared | {"runs": records}, indent=1))
    return folder
