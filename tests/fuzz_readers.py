"""Coverage-guided fuzzing of everything that reads a file: ``python tests/fuzz_readers.py [SECONDS]``, or
``make fuzz``.

libFuzzer changes the bytes of sound and of bad files for some time, and looks for ways through magunet it has
not seen. Whatever a reader raises but InputError, a reader that ends the process (SimpleITK is C++) and one
that hangs are faults: the process ends with another status than 0, and the bytes lie in ``crash-*`` or
``timeout-*`` here. Give that file as the only argument to see it again. Needs the package atheris, which has
wheels for Linux only.
"""

import itertools
import json
import os
import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import atheris
import safetensors.torch
import torch
import yaml

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[:2]]

with atheris.instrument_imports(include=["magunet", "compendium.view", "nibabel"]):
    from bad_files import SCANS, SEEDS_OF_SERIES, series, sound

    from compendium.view.dicom_seg import read_source
    from compendium.view.segments import read_segments
    from magunet import checkpoint, train
    from magunet.base import profiles
    from magunet.base.errors import InputError
    from magunet.cohort import load_cohort
    from magunet.predict import load_model
    from magunet.volume import FILE_ENDINGS, read_volume

LIMITS = ["-timeout=60", "-rss_limit_mb=4096", "-max_len=400000", "-detect_leaks=0", "-print_final_stats=1"]
MOST_MEMORY = 2**30
"""Bytes that all files together may make the process grow by: GDCM asks for the 4 GiB that a DICOM tag says
it holds."""
FOLDER = Path(tempfile.mkdtemp(prefix="magunet-fuzz-"))
RUN, COHORT, SERIES, MADE = (FOLDER / name for name in ("run", "cohort", "series", "made"))
NETWORK, NARROW = "3D U-Net", replace(profiles.load("smoke"), profile="a", width_divisor=32)
SLICER = (b"NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\n"
          b"space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nencoding: raw\n"
          b"space origin: (0,0,0)\nSegment0_Name:=Sacrum\nSegment0_LabelValue:=1\nSegment0_Layer:=0\n\n"
          + bytes([0, 1] * 4))
LISTS = [{"file_ending": ".nii.gz", "cases": {"a": {"patient": "p"}}}, {"train": ["a"], "val": ["b"]}]


def new_state() -> checkpoint.TrainingState:
    return train.new_state(NETWORK, NARROW, 0, 1, torch.device("cpu"))


def read_lists(path: Path) -> None:
    """One file for two of a cohort, parted by a zero byte."""
    for name, text in zip(("dataset.json", "splits.json"), path.read_bytes().partition(b"\0")[::2]):
        (COHORT / name).write_bytes(text)
    load_cohort(COHORT)


READERS = [*((FOLDER / f"a{ending}", read_volume) for ending in FILE_ENDINGS),
           (SERIES / "IM0006.dcm", lambda _: read_source(SERIES, read_volume(SERIES))),
           (FOLDER / "a.seg.nrrd", lambda path: read_segments(path, ["Sacrum", "Hip_L"])),
           (FOLDER / "a.yaml", lambda path: profiles.load(str(path))), (FOLDER / "lists", read_lists),
           *((RUN / name, lambda _: load_model(RUN)) for name in ("run.json", "weights.safetensors")),
           (RUN / "checkpoint.safetensors", lambda path: checkpoint.restore(new_state(), path, "settings"))]
"""The file that is changed, and what reads it, with sound ones beside it."""
SOUND: dict[Path, bytes] = {}
"""Contents of the files that need more than a line to be made."""


def one(content: bytes) -> None:
    """The first byte chooses the reader, the rest is the file."""
    if content:
        path, read = READERS[content[0] % len(READERS)]
        path.write_bytes(content[1:])
        try:
            read(path)
        except InputError as error:
            assert "\n" not in str(error), error
        finally:
            path.write_bytes(SOUND.get(path, content[1:]))


def seed(corpus: Path) -> None:
    """Sound and bad files of every reader, as the tests make them."""
    numbers = itertools.count()

    def add(path: Path, content: bytes) -> None:
        reader = [name for name, _ in READERS].index(path)
        (corpus / str(next(numbers))).write_bytes(bytes([reader]) + content)

    for folder in (corpus, MADE, RUN, COHORT / "imagesTr", COHORT / "labelsTr"):
        folder.mkdir(parents=True)
    for name in ("imagesTr/a_0000", "imagesTr/b_0000", "labelsTr/a", "labelsTr/b"):
        (COHORT / f"{name}.nii.gz").touch()
    scans = [(f"a{ending}", sound) for ending in FILE_ENDINGS if ending != ".mhd"]          # writes two files
    for name, make in (*scans, *((name, make) for name, make, _ in SCANS.values())):
        make(MADE / name)
        ending = next((ending for ending in FILE_ENDINGS if name.endswith(ending)), None)
        if ending and (MADE / name).exists():
            add(FOLDER / f"a{ending}", (MADE / name).read_bytes())
        for path in MADE.iterdir():
            path.unlink()
    series(SERIES)
    for number, make in enumerate(SEEDS_OF_SERIES):
        make(MADE / str(number))
        add(SERIES / "IM0006.dcm", (MADE / str(number) / "IM0006.dcm").read_bytes())
    state = new_state()
    checkpoint.save(state, RUN / "checkpoint.safetensors", "settings")
    for path in (RUN / "checkpoint.safetensors", SERIES / "IM0006.dcm"):
        SOUND[path] = path.read_bytes()
    weights = {name: tensor.contiguous() for name, tensor in state.network.state_dict().items()}
    SOUND[RUN / "weights.safetensors"] = safetensors.torch.save(weights)
    SOUND[RUN / "run.json"] = json.dumps({
        "network": NETWORK, "seed": 0, "settings": NARROW.as_dict(), "data_hash": "a", "pixel_mm": 3,
        "train": [], "val": []}).encode()
    others = {FOLDER / "a.seg.nrrd": SLICER, FOLDER / "a.yaml": yaml.safe_dump(NARROW.as_dict()).encode(),
              FOLDER / "lists": b"\0".join(json.dumps(part).encode() for part in LISTS)}
    for path, content in (SOUND | others).items():
        add(path, content)
        path.write_bytes(content)


def main() -> None:
    seed(FOLDER / "corpus")
    words = sys.argv[1:] or ["120"]
    if words[0].isdecimal():
        words = [str(FOLDER / "corpus"), f"-max_total_time={words[0]}", *words[1:]]
    atheris.Setup([sys.argv[0], *LIMITS, *words], one)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_MEMORY, resource.RLIM_INFINITY))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
