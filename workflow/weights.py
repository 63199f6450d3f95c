"""Makes ``data/weights``: the two networks that `magunet predict` takes when no model is named, their
scores, and the card that says what they are.

    python workflow/weights.py --labels FOLDER

Trains MAG-UNet on the profile `locator`, whole scans in voxels of 4 mm, and on the profile `weights`, regions
of interest in voxels of 1.5 mm, in a second part also of more varied pelvises, on phantoms that another process
makes meanwhile (or goes on, or takes what is finished), stores both networks in half precision, and
scores them on phantoms, renders of the label maps in FOLDER
(NIfTI: 1 sacrum, 3 and 4 left hip, 5 and 6 right hip, such as the Visible Human pelvises) and the real sample
CT. No scan that is scored was trained on, and none chooses anything: the last weights are taken. What was
scored already is not scored again.

On two cores the locator takes half an hour and the second network four hours, as their log and the card say; the
scores take a quarter of an hour of one core.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from compendium.figures.planes import save_figure, three_planes
from magunet import augment, body, confidence, joints, metrics, predict, prepare, region, surfaces, train
from magunet.base import profiles, project, provenance
from magunet.base.device import choose_device, choose_precision
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.base.progress import track
from magunet.checkpoint import write_tensors
from magunet.confidence import own_dice
from magunet.joints import SIDES, sides
from magunet.metrics import overlap
from magunet.predict import CARD_FILE, LOCATOR, RECORD_FILE, WEIGHTS_FILE, load_model
from sijphantom.cohort import phantom_scan
from sijphantom.phantom import make_phantom

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from workflow import stream, unseen

NETWORK = "MAG-UNet"
VARIED = {"cases": 1248, "cohort_seed": 3_000_000, "learning_rate": 0.001}
"""What the last part of the second network's training, whose phantoms are more varied, has for settings of its own."""
RENDERS = 4
"""Of each label map."""
CALIBRATION = "calibration phantoms"
"""Group of scans that only tell how to correct the Dice that the network expects of a joint."""
CALIBRATED = (86_000, 50)
"""Seed of the first of them, and how many."""
EXACT = 4
"""Every so many phantoms, and all other scans, are also segmented in float32, which takes three times as
long."""


def phantoms(settings: Settings, first: int, count: int, group: str) -> Iterator[unseen.Unseen]:
    """Phantoms of seeds from ``first`` on, made like a profile's, each pair of grades as often."""
    pairs = itertools.cycle(itertools.product(range(5), repeat=2))
    for seed, grades in zip(track(range(first, first + count), group), pairs):
        one = make_phantom(seed, **stream.options(settings, seed), grades=grades)
        yield unseen.Unseen(group, f"phantom_{seed}", *phantom_scan(one), grades)


def trained(settings: Settings, start: Path | None = None) -> Path:
    """The run of these settings; ten of the phantoms that are scored are watched, and choose nothing. start: as
    of `workflow.stream.learn`."""
    device = choose_device()
    precision = choose_precision(settings.precision, device)
    few = phantoms(settings, settings.test_seed, train.CURVE_CASES, "phantoms that are watched")
    cases = {one.case: prepare.prepare(one.scan, one.truth, settings) for one in few}
    return stream.learn(NETWORK, settings, lambda network: train.validation_dice(
        network, cases, settings, device, precision), start)


def main() -> None:
    """Train if need be, store, score, write the card and the picture of the real CT."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     epilog=__doc__.split("\n\n")[-1])
    parser.add_argument("--labels", type=Path, required=True, help="folder of label maps to render and score")
    parser.add_argument("--only", choices=("locator", "weights"), help="train and store this network, and end; "
                        "a run without this must follow, to calibrate and score")
    arguments = parser.parse_args()
    unseen.label_maps(arguments.labels)                   # a wrong folder fails before any work
    real, folder = unseen.real_ct(), project.data() / "weights"
    torch.set_num_threads(1)
    settings = profiles.load("weights")
    if arguments.only != "weights":
        ship(trained(profiles.load("locator")), folder / LOCATOR)
    if arguments.only != "locator":
        ship(first := trained(settings), half := first / "half")
        ship(run := trained(replace(settings, **VARIED), half), folder)
    if arguments.only:
        return
    full, half = load_model(run), load_model(folder)
    exact = [replace(model, precision=torch.float32) for model in (full, half)]
    key = provenance.content_hash(provenance.file_hash(run / WEIGHTS_FILE),
                                  provenance.file_hash(folder / LOCATOR / WEIGHTS_FILE),
                                  provenance.code_hash(
                                      unseen, body, confidence, joints, metrics, predict, prepare, region, surfaces))
    kept = run / f"unseen-{key}.csv"
    rows = pd.read_csv(kept).to_dict("records") if kept.exists() else []
    done = {row["case"] for row in rows}
    all_scans = chain(phantoms(settings, *CALIBRATED, CALIBRATION),
                      phantoms(settings, settings.test_seed, settings.test_cases, unseen.PHANTOMS),
                      unseen.renders(arguments.labels, RENDERS), [real])
    for number, one in enumerate(all_scans):
        if one.case not in done:
            answer = half.answer(one.scan)
            agreement = overlap(answer.mask.array, full.segment(one.scan).array).dice
            row = unseen.score(one, answer.mask) | {"agreement_as_run": agreement, "note": answer.note or None}
            if answer.chance:
                plane, _ = sides(one.scan, one.truth)
                row |= {f"own_{side}": dice for side, dice in own_dice(answer.chance, plane).items()}
            if one.group != unseen.PHANTOMS or number % EXACT == 0:
                row["agreement"] = overlap(*(model.segment(one.scan).array for model in exact)).dice
            rows.append(row)
            _write(pd.DataFrame(rows), kept)
    scores, record = pd.DataFrame(rows), provenance.read_json(folder / RECORD_FILE)
    _write(scores, folder / "scores.csv")
    slope, intercept = np.polyfit(*by_joint(scores[scores["group"] == CALIBRATION]), 1)
    record["calibration"] = [float(intercept), float(slope)]
    provenance.write_json(folder / RECORD_FILE, record)
    with provenance.whole_file(folder / CARD_FILE) as part:
        locator = provenance.read_json(folder / LOCATOR / RECORD_FILE)
        part.write_text(card(record, locator, scores), encoding="utf-8")
    figure = three_planes(real.scan, truth=real.truth, prediction=half.segment(real.scan),
                          truth_name="mask derived from bone labels", title="The real CT, and what the weights in data/weights find in it")
    picture = save_figure(figure, project.root() / "figures/readme" / "first_mask.png",
                          f"data/weights, run {run.name}", vector=False)
    print(folder / CARD_FILE, folder / "scores.csv", picture, sep="\n")


def by_joint(scores: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """The Dice that the network expects, and the Dice there is, of all joints of which it has a mask."""
    joints = pd.concat([scores[[f"own_{side}", f"dice_{side}"]].set_axis(["own", "dice"], axis=1)
                        for side in SIDES], ignore_index=True).dropna()
    return joints["own"], joints["dice"]


def ship(run: Path, folder: Path) -> None:
    """Write a finished run's weights in half precision, and its record, into a folder.

    Raises InputError when a weight is too large for half precision.
    """
    record = provenance.read_json(run / RECORD_FILE)
    weights = safetensors.torch.load_file(run / WEIGHTS_FILE)
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor
              for name, tensor in weights.items()}
    if bad := [name for name, tensor in halved.items() if not tensor.isfinite().all()]:
        raise InputError(f"{run / WEIGHTS_FILE}: {bad[0]} holds values beyond {torch.finfo(torch.half).max:g}, "
                         "the largest in half precision; ship another run")
    write_tensors(halved, folder / WEIGHTS_FILE)
    outputs = {WEIGHTS_FILE: provenance.file_hash(folder / WEIGHTS_FILE)}
    provenance.write_json(folder / RECORD_FILE,
                          record | {"run": run.name, "weights": "float16", "outputs": outputs})


def _write(scores: pd.DataFrame, path: Path) -> None:
    with provenance.whole_file(path) as part:
        scores.to_csv(part, index=False)


def card(record: dict, locator: dict, scores: pd.DataFrame) -> str:
    """The model card, Markdown: all its numbers are from the runs' records, the scores by scan, and the code."""
    settings, phantoms = record["settings"], scores[scores["group"] == unseen.PHANTOMS]
    first, times = record["start"], settings["samples_per_case"]
    log = first["log"] + [entry | {"step": entry["step"] + first["steps"]} for entry in record["log"]]
    joints = pd.concat([phantoms[[f"grade_{side}", f"dice_{side}"]].set_axis(["grade", "dice"], axis=1)
                        for side in SIDES])
    own, dice = by_joint(phantoms)
    intercept, slope = record["calibration"]
    expected, beyond = (intercept + slope * own).clip(0, 1), []
    for group, table in scores[~scores["group"].isin((CALIBRATION, unseen.PHANTOMS))].groupby("group", sort=False):
        theirs, there = by_joint(table)
        mean = 100 * (intercept + slope * theirs).clip(0, 1).mean()
        beyond.append(f"| {group} | {len(there)} | {mean:.1f} | {_percent(there)} |")
    bins = dice.groupby(pd.cut(expected, BINS, include_lowest=True), observed=True)
    reach, shown = augment.REACH[settings["augmentation"]], scores[scores["group"] != CALIBRATION]
    return CARD.format(
        **settings | record, locator_steps=locator["steps"],
        locator_phantoms=locator["steps"] // locator["settings"]["samples_per_case"], part=stream.PART,
        locator_voxel=locator["settings"]["voxel_mm"], locator_divisor=locator["settings"]["width_divisor"],
        locator_seeds=locator["train"][0], locator_fields=" to ".join(map(str, locator["fields_mm"])),
        locator_git=locator["git"], locator_minutes=locator["seconds"] / 60, train_seeds=first["train"][0],
        varied_seeds=record["train"][0], phantoms=(first["steps"] + record["steps"]) // times, first_git=first["git"],
        first_steps=first["steps"], first_rate=first["settings"]["learning_rate"], first_minutes=first["seconds"] / 60,
        fields=" to ".join(map(str, record["fields_mm"])), held_out=len(phantoms),
        val_seeds=_seeds(phantoms["case"]), watched=train.CURVE_CASES, curve="\n".join(
            f"| {entry['step']:,} | {entry['step'] // times:,} | {100 * entry['dice']:.1f} |"
            for entry in [*log[:2], *log[3:-1:4], log[-1]]),
        minutes=record["seconds"] / 60, box=" x ".join(f"{side:.0f}" for side in profiles.BOX_MM),
        degrees=augment.ROTATION_DEGREES * reach, percent=100 * augment.SCALING * reach,
        versions=", ".join(f"{name} {version}"
                           for name, version in record["libraries"].items() if version != "not installed"),
        groups="\n".join(f"| {group} | {len(table)} | {_percent(table['dice'])} "
                         f"| {table['median_surface_mm'].mean():.1f} | {_percent(table['volume'])} |"
                         for group, table in shown.groupby("group", sort=False)),
        grades="\n".join(f"| {grade:.0f} | {len(table)} | {_percent(table['dice'])} |"
                         for grade, table in joints.groupby("grade")),
        reliability="\n".join(f"| expected {100 * part.left:.0f} to {100 * part.right:.0f} % | {len(table)} "
                              f"| {100 * expected[table.index].mean():.1f} | {_percent(table)} |"
                              for part, table in bins),
        beyond="\n".join(beyond), worst=", ".join(f"{row.case} {100 * row.dice:.1f} (grades {row.grade_left:.0f} and "
                        f"{row.grade_right:.0f})" for row in phantoms.nsmallest(3, "dice").itertuples()),
        notes=_notes(scores), calibration_cases=CALIBRATED[1],
        calibration_seeds=f"{CALIBRATED[0]} to {sum(CALIBRATED) - 1}",
        compared=scores["agreement"].count(), mean_agreement=scores["agreement"].mean(),
        min_agreement=scores["agreement"].min(), mean_agreement_as_run=scores["agreement_as_run"].mean(),
        min_agreement_as_run=scores["agreement_as_run"].min())


BINS = (0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1)
"""Of the Dice to expect, in the card's table of reliability."""
CARD = """\
# Model card: two MAG-UNets, compact, trained on phantoms

The weights that `magunet predict CT --out FOLDER` takes when no model is named. `python workflow/weights.py --labels FOLDER`
makes them and writes this page; `scores.csv` has the scores scan by scan, `run.json` and `locator/run.json` are the records
of the trainings.

* **Networks**: the first ({network}, channel widths divided by {locator_divisor}) finds both joints in the whole body, in voxels of
  {locator_voxel:g} mm; the second ({network}, divided by {width_divisor}) draws them in a box of {box} mm about their middle, in voxels of
  {voxel_mm:g} mm. Weights in half precision.
* **Data**: computed phantoms, made while the training ran and forgotten after {samples_per_case} steps each: {phantoms:,} for the second
  ({train_seeds}, and {varied_seeds}; of the latter every other one has
  a more varied pelvis than people are known to have), {locator_phantoms:,} for the first ({locator_seeds}; of one in
  {part} it saw a part alone, also without a joint); joints of grade 0 to 4, fields of view from {fields} mm (first: {locator_fields} mm),
  slices 0.5 to 5 mm apart, soft and bone kernels, contrast agent, metal, joints at the border of the scan.
  No patient, no real CT, no Visible Human.
* **Training**: of the second {first_steps:,} steps at a learning rate of {first_rate:g} down to 0, and from there, in half precision, {steps:,}
  at {learning_rate:g} down to 0; of the first {locator_steps:,} steps at {first_rate:g} down to 0; batch size 1; Adam, weight decay {weight_decay:g}; Dice + cross-entropy; the last weights are taken.
* **Augmentation**: `{augmentation}`: flips left to right, rotation by up to {degrees:.0f}°, size by up to {percent:.0f} %,
  shifts, gamma, contrast, resolution, blur and noise.
* **Made with**: {device}, {precision}, {first_minutes:.0f} and {minutes:.0f} minutes (first: {locator_minutes:.0f}), revisions {first_git}
  and {git} (first: {locator_git});
  {versions}.
* **Licence**: CC BY 4.0, as the phantoms, whose mean shape was read off the Visible Human pelvises.

## Scores, each on the scan's own grid

{held_out} phantoms that nothing was trained or chosen on, seeds {val_seeds}; renders of label maps; and a real CT.

| scans | number | Dice, %: mean (least to most) | median surface distance, mm | volume, % of the true one: mean (least to most) |
|---|---|---|---|---|
{groups}

Single joints of the phantoms, by the grade of their disease:

| grade | joints | Dice, %: mean (least to most) |
|---|---|---|
{grades}

Worst phantoms: {worst}. {notes}

## What raised the scores

More phantoms did, ever more slowly. {watched} of the phantoms above were watched while the second network trained,
and chose nothing; this was their mean Dice in the region of interest. After {first_steps:,} steps the learning rate begins anew, and
every other pelvis is a varied one:

| steps | phantoms seen | Dice, % |
|---|---|---|
{curve}

So did two steps: the network before these, on whole planes shrunk to 3 mm, reached 78.7 and 77.9 on these renders and 66.6 on
the real CT (card of revision 31632c4). The recipe is the study's, but for the stronger augmentation, phantoms that are new all
the time, and more steps; `docs/study.md` has what was tried and did not raise the scores of the study's networks.

In anatomy that is not the phantom's, the renders and the real CT, masks tend to be too small: see the last column of the first
table. Before the last part of the training the volumes were 84, 76 and 58 % of the true ones, with Dice of 85.0, 82.8 and 71.3,
and 88.9 on the phantoms (card of revision 480203c); what of the difference is due to varied pelvises, and what to more steps, was
not measured.

## How far a joint can be trusted

The report of `magunet predict` has a Dice to expect of each joint, from the network's own probabilities and a line that was
fitted on {calibration_cases} other phantoms (seeds {calibration_seeds}). Joints of the phantoms above, by what was expected, and
those of the other scans:

| joints | number | expected, %: mean | Dice, %: mean (least to most) |
|---|---|---|---|
{reliability}
{beyond}

It knows of no error that phantoms do not have, and so expects too much in other anatomy.

Masks by the weights in half and in full precision, both computed in float32, agree with a Dice of {mean_agreement:.5f} on average
and {min_agreement:.5f} at least ({compared} of the scans). Computed in {precision}, whose own rounding is coarser than that of
the weights, they agree with {mean_agreement_as_run:.5f} and {min_agreement_as_run:.5f} (all scans).

The real CT has voxels of 3 mm, and its mask is derived from bone labels that another network predicted: a check that the
weights find the joints of a person, and no measure of how exactly. The renders of label maps are new in pose, surface, tissue
and scanner, but the phantom's mean shape is theirs, and how varied pelvises vary was chosen after a look at renders of the
female one, of other seeds.

## Intended use

A first look at what the project does on a CT of one's own; teaching; something to compare one's own training with. The band
that it marks is what lies within {target_mm:g} mm of both sacrum and ilium: joint space and subchondral bone.

## Limits

* Not for diagnosis, follow-up or any other clinical decision: never trained on patients' joints, and tested on those of one person only.
* One training with one seed; another seed would give other masks.
* Expects a pelvic CT in HU, head up and face forward as its header says, with slices up to 5 mm apart.
* Where a scan cuts a joint, the rest of it is found worse, and what lies beside it may be taken for one. Sides are the header's.
* Fractures, tumours, implants in the joint, children and MRI are not in the phantoms.
* It grades nothing. The phantoms' erosions and sclerosis are computed, and so is what was learned of them.
"""


def _notes(scores: pd.DataFrame) -> str:
    return (f"The first network found both joints in {scores['note'].isna().sum()} of {len(scores)} scans, those of the "
            "calibration below among them.")


def _seeds(cases: pd.Series) -> str:
    seeds = sorted(int(name.removeprefix("phantom_")) for name in cases)
    return f"{seeds[0]} to {seeds[-1]}"


def _percent(dice: pd.Series) -> str:
    return f"{100 * dice.mean():.1f} ({100 * dice.min():.1f} to {100 * dice.max():.1f})"


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"weights: {error}")
