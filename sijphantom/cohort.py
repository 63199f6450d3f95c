"""Cohorts of phantoms: the built-in one of each profile, and phantoms like the scans of another cohort."""

import importlib
import itertools
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import joblib

import sijphantom
from magunet import target
from magunet.base import project, provenance
from magunet.base.device import free_memory
from magunet.base.errors import InputError, require
from magunet.base.profiles import Settings
from magunet.cohort import Cohort, load_cohort
from magunet.volume import ENDING, Volume, read_volume, reorient, write_volume
from sijphantom import phantom
from sijphantom.likeness import options_like

PHANTOM_CODE = [target, *(importlib.import_module(module.name) for module in pkgutil.iter_modules(
    sijphantom.__path__, "sijphantom.") if module.name != __name__)]
"""All that decides a phantom's voxels."""
SHAPE_SOURCE = ("Computed by magunet. Mean shape: HuBMAP CCF 3D Reference Object Library and Visible Human "
                "Project, CC BY 4.0; spread: measurements of VSD full-body bone models, "
                "doi:10.5281/zenodo.8316730")
"""Citation in a phantom cohort's dataset.json."""
LIKE_FILE = "like.json"
"""Marks a folder of phantoms made like another cohort, which may be changed."""

Options = Mapping[str, Any]
"""Arguments of `phantom.make_phantom` other than the seed."""
Progress = Callable[[Sequence, str], Iterator]
"""As `magunet.base.progress.track`."""


def phantom_scan(source: phantom.Phantom) -> tuple[Volume, Volume]:
    """CT and mask of a phantom as volumes, centred on the origin."""
    origin = tuple(-s * (n - 1) / 2 for s, n in zip(source.spacing[::-1], source.image.shape[::-1]))
    return Volume(source.image, source.spacing, origin), Volume(source.mask, source.spacing, origin)


def phantom_folder(settings: Settings) -> Path:
    """``data/phantoms-PROFILE-HASH``: the hash changes with the settings and code that make the voxels."""
    key = provenance.content_hash(
        settings.cases, settings.cohort_seed, settings.test_cases, settings.test_seed, settings.scan_matrix,
        settings.scan_slices, settings.target_mm, provenance.code_hash(*PHANTOM_CODE))
    return project.data() / f"phantoms-{settings.profile}-{key}"


def cohort_of(settings: Settings, progress: Progress) -> Cohort:
    """The cohort that the settings name (its path from the compendium's folder), or the profile's phantoms;
    what is missing of these is generated, on all cores.

    Phantoms to train on have the grades that their seeds draw; those that are scored have all 25 pairs of
    grades in turn, so that 25, 50 or 100 have each grade equally often. Raises InputError when a phantom
    would be on both sides.
    """
    root = project.root() / settings.cohort if settings.cohort else phantom_folder(settings)
    if not (settings.cohort or (root / "dataset.json").exists()):
        options = dict(matrix=settings.scan_matrix, slices=settings.scan_slices, thickness=settings.target_mm)
        train = range(settings.cohort_seed, settings.cohort_seed + settings.cases)
        test = range(settings.test_seed, settings.test_seed + settings.test_cases)
        require(not set(train) & set(test), f"profile {settings.profile}: phantoms of seeds {test.start} to "
                f"{test.stop - 1} would be trained on and scored; choose another test_seed")
        pairs = itertools.cycle(itertools.product(range(5), repeat=2))
        balanced = {seed: options | {"grades": pair} for seed, pair in zip(test, pairs)}
        phantoms = dict.fromkeys(train, options) | balanced
        write_phantoms(root, phantoms, f"magunet phantoms, profile {settings.profile}", progress, test)
    return load_cohort(root)


def existing_cohort(settings: Settings) -> Cohort | None:
    """The profile's cohort; None where the built-in one has not been made. Raises as `load_cohort` does."""
    folder = project.root() / settings.cohort if settings.cohort else phantom_folder(settings)
    return load_cohort(folder) if settings.cohort or (folder / "dataset.json").exists() else None


def make_phantoms_like(model: Cohort, root: Path, count: int, first_seed: int, progress: Progress) -> None:
    """Generate ``count`` phantoms with the grids and noise of a cohort's scans, which come in turn, by name.

    Raises InputError for a folder that holds anything else, and, naming the file, for a scan that cannot be
    measured or is too short for a phantom's joints.
    """
    if root.exists() and (not root.is_dir() or (any(root.iterdir()) and not (root / LIKE_FILE).exists())):
        raise InputError(f"{root}: is not empty, and not from 'magunet cohort --like'; give another --out")
    options = []
    for case in progress(sorted(model.cases.values(), key=lambda case: case.name)[:count], "measured"):
        scan = reorient(read_volume(case.image), "LPS")
        try:
            options.append(options_like(scan))
        except InputError as error:
            raise InputError(f"{case.image}: {error}") from error
    phantoms = {first_seed + n: options[n % len(options)] for n in range(count)}
    provenance.write_json(root / LIKE_FILE, {"like": project.typed_name(model.root)})
    write_phantoms(root, phantoms, f"magunet phantoms like {project.typed_name(model.root)}", progress)


def write_phantoms(root: Path, phantoms: Mapping[int, Options], title: str, progress: Progress,
                   test: Collection[int] = ()) -> None:
    """Generate phantoms, seed -> options, into a cohort in nnU-Net raw layout, on all cores.

    test: the seeds of those that are scored; without, the split is left to `load_cohort`.

    A case is complete when its file in ``parameters/`` says that it was made with these options, by this
    code; ``dataset.json`` comes last. Phantoms of an earlier call that this one does not name are removed.
    Another process that is at work in the folder is waited for.
    """
    with provenance.alone_in(root):
        names = {_record(root, seed).stem for seed in phantoms}
        missing = [(root, *item) for item in phantoms.items() if not _is_made(root, *item)]
        stray = [path for path in root.glob("*/phantom_[0-9][0-9][0-9]*")
                 if path.name.split(".")[0].removesuffix("_0000") not in names]
        if missing or stray:
            for path in (root / "dataset.json", *stray, *([root / "splits.json"] if stray else [])):
                path.unlink(missing_ok=True)
        if missing:
            run_all(_make_case, missing, phantom_processes([job[2] for job in missing]), progress, "phantoms")
        cases = {_record(root, seed).stem: provenance.read_json(_record(root, seed)) for seed in phantoms}
        if test:
            sides = {"train": phantoms.keys() - set(test), "val": test}
            provenance.write_json(root / "splits.json", {
                side: [_record(root, seed).stem for seed in sorted(seeds)] for side, seeds in sides.items()})
        provenance.write_json(root / "dataset.json", {
            "channel_names": {"0": "CT"}, "labels": {"background": 0, "SIJ": 1}, "numTraining": len(cases),
            "file_ending": ENDING, "name": title, "licence": "CC BY 4.0", "citation": SHAPE_SOURCE,
            "cases": cases})


def _record(root: Path, seed: int) -> Path:
    """The file that is written last of a phantom's, and says how it was drawn."""
    return root / "parameters" / f"phantom_{seed:03d}.json"


def _is_made(root: Path, seed: int, options: Options) -> bool:
    try:
        return provenance.read_json(_record(root, seed))["made_with"] == _made_with(options)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _made_with(options: Options) -> str:
    return provenance.content_hash(repr(sorted(options.items())), provenance.code_hash(*PHANTOM_CODE))


def _make_case(root: Path, seed: int, options: Options) -> None:
    """Generate and write one phantom: scan, mask, and last its record."""
    record = _record(root, seed)
    record.unlink(missing_ok=True)
    try:
        case = phantom.make_phantom(seed, **options)
    except InputError as error:
        raise InputError(f"phantom of seed {seed}: {error}") from error
    image, mask = phantom_scan(case)
    write_volume(image, root / "imagesTr" / f"{record.stem}_0000{ENDING}")
    write_volume(mask, root / "labelsTr" / f"{record.stem}{ENDING}")
    left, right = case.grades
    provenance.write_json(record, {"patient": record.stem, "grade_left": left, "grade_right": right,
                                   "made_with": _made_with(options), "parameters": case.parameters})


def phantom_processes(options: Sequence[Options]) -> int:
    """Processes that make these phantoms: one a core as memory allows, one for little work.

    Measured: a phantom takes 0.6 to 2.5 GiB, 20 million voxels about ten seconds, a process three to start.
    """
    voxels = [one["matrix"] ** 2 * one["slices"][1] for one in options]
    gib = 0.6 + 1.2 * min(1, max(voxels) / 10e6) + 14 * max(voxels) / 2**30
    return 1 if sum(voxels) < 20e6 else max(1, min(len(voxels), joblib.cpu_count(), int(free_memory() / gib)))


def run_all(call: Callable, jobs: Sequence[tuple], processes: int, progress: Progress, what: str) -> None:
    """``call(*job)`` for every job, in any order, in this process or in several of one thread each.

    What a call raises is raised here, and so is Ctrl-C; the other processes then end at once. Raises
    InputError when a process is ended from outside.
    """
    if processes == 1:
        for job in progress(jobs, what):
            call(*job)
        return
    pool = joblib.Parallel(processes, backend="loky", return_as="generator_unordered",
                           inner_max_num_threads=1, idle_worker_timeout=5)
    try:
        for _ in zip(progress(jobs, what), pool(joblib.delayed(call)(*job) for job in jobs)):
            pass
    except BrokenProcessPool as error:
        raise InputError(f"{what}: a process was ended from outside, most often for lack of memory; close "
                         "other programs and run this again, it goes on with what is missing") from error
