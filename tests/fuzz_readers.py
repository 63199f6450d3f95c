"""Coverage-guided fuzzing of everything that reads a file: ``python tests/fuzz_readers.py [SECONDS]``, or
``make fuzz``.

libFuzzer changes the bytes of sound and of bad files for some time, and looks for ways through magunet it has
not seen. Whatever a reader raises but InputError, a reader that ends the process (SimpleITK is C++) and one
that hangs are faults: the process ends with another status than 0, and the bytes lie in ``crash-*`` or
``timeout-*`` here. Give that file as the only argument to see it again. Needs the package atheris, which has
wheels for Linux only.
"""

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
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

with atheris.instrument_imports(include=["magunet", "compendium.view", "nibabel"]):
    from bad_files import SCANS, SEEDS_OF_SERIES, series, sound

    from compendium.view.dicom_seg import read_source
    from compendium.view.segments import read_segments
    from magunet import checkpoint, train
    from magunet.base import profiles
    from magunet.base.errors import InputError
    from magunet.cohort import load_cohort
    from magunet.predict import RECORD_FILE, WEIGHTS_FILE, load_model
    from magunet.volume import FILE_ENDINGS, read_volume

SECONDS = 120
LIMITS = ["-timeout=60", "-rss_limit_mb=4096", "-max_len=400000", "-detect_leaks=0", "-print_final_stats=1"]
MOST_MEMORY = 2**30
"""Bytes that all files together may make the process grow by: GDCM asks for the 4 GiB that a DICOM tag says
it holds."""
FOLDER = Path(tempfile.mkdtemp(prefix="magunet-fuzz-"))


def read_file(ending: str, content: bytes) -> None:
    path = FOLDER / f"a{ending}"
    path.write_bytes(content)
    read_volume(path)


def read_slice(content: bytes) -> None:
    """One slice of a sound series is changed."""
    (FOLDER / "series/IM0006.dcm").write_bytes(content)
    read_source(FOLDER / "series", read_volume(FOLDER / "series"))


def read_slicer(content: bytes) -> None:
    (FOLDER / "a.seg.nrrd").write_bytes(content)
    read_segments(FOLDER / "a.seg.nrrd", ["Sacrum", "Hip_L"])


def read_profile(content: bytes) -> None:
    (FOLDER / "a.yaml").write_bytes(content)
    profiles.load(str(FOLDER / "a.yaml"))


def read_lists(content: bytes) -> None:
    first, _, second = content.partition(b"\0")
    for name, text in (("dataset.json", first), ("splits.json", second)):
        (FOLDER / "cohort" / name).write_bytes(text)
    load_cohort(FOLDER / "cohort")


def read_record(content: bytes) -> None:
    (FOLDER / "run" / RECORD_FILE).write_bytes(content)
    (FOLDER / "run" / WEIGHTS_FILE).write_bytes(SOUND_RUN[WEIGHTS_FILE])
    load_model(FOLDER / "run")


def read_weights(content: bytes) -> None:
    (FOLDER / "run" / RECORD_FILE).write_bytes(SOUND_RUN[RECORD_FILE])
    (FOLDER / "run" / WEIGHTS_FILE).write_bytes(content)
    load_model(FOLDER / "run")


def read_checkpoint(content: bytes) -> None:
    (FOLDER / "run/checkpoint.safetensors").write_bytes(content)
    checkpoint.restore(new_state(), FOLDER / "run/checkpoint.safetensors", "settings")


def new_state() -> checkpoint.TrainingState:
    return train.new_state(NETWORK, NARROW, 0, 1, torch.device("cpu"))


NETWORK, NARROW = "3D U-Net", replace(profiles.load("smoke"), profile="a", width_divisor=32)
SOUND_RUN: dict[str, bytes] = {}
"""Files of a run, by name."""


READERS = [*(lambda content, ending=ending: read_file(ending, content) for ending in FILE_ENDINGS),
           read_slice, read_slicer, read_profile, read_lists, read_record, read_weights, read_checkpoint]


def one(content: bytes) -> None:
    """The first byte chooses the reader, the rest is the file."""
    if content:
        try:
            READERS[content[0] % len(READERS)](content[1:])
        except InputError as error:
            assert "\n" not in str(error), error


def seed(folder: Path) -> None:
    """Sound and bad files of every reader, as the tests make them."""
    def add(reader: int, content: bytes) -> None:
        (folder / f"{reader}-{len(list(folder.iterdir()))}").write_bytes(bytes([reader]) + content)

    made = FOLDER / "made"
    made.mkdir()
    for reader, ending in enumerate(FILE_ENDINGS):
        if ending != ".mhd":                                                    # writes two files
            sound(made / f"a{ending}")
            add(reader, (made / f"a{ending}").read_bytes())
            (made / f"a{ending}").unlink()
    for name, make, _ in SCANS.values():
        make(made / name)
        ending = next((e for e in FILE_ENDINGS if name.endswith(e)), None)
        if ending and (made / name).exists():
            add(FILE_ENDINGS.index(ending), (made / name).read_bytes())
        for path in made.iterdir():
            path.unlink()
    series(FOLDER / "series")
    count = len(FILE_ENDINGS)
    for number, make in enumerate(SEEDS_OF_SERIES):
        make(made / f"s{number}")
        add(count, (made / f"s{number}/IM0006.dcm").read_bytes())
    add(count + 1, b"NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\n"
        b"space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nencoding: raw\n"
        b"space origin: (0,0,0)\n"
        b"Segment0_Name:=Sacrum\nSegment0_LabelValue:=1\nSegment0_Layer:=0\n\n" + bytes([0, 1] * 4))
    add(count + 2, yaml.safe_dump(profiles.load("smoke").as_dict() | {"profile": "a"}).encode())
    for name in ("imagesTr/a_0000", "imagesTr/b_0000", "labelsTr/a", "labelsTr/b"):
        path = FOLDER / "cohort" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    add(count + 3, json.dumps({"file_ending": ".nii.gz", "cases": {"a": {"patient": "p"}}}).encode() + b"\0"
        + json.dumps({"train": ["a"], "val": ["b"]}).encode())
    (FOLDER / "run").mkdir()
    state = new_state()
    checkpoint.save(state, FOLDER / "run/checkpoint.safetensors", "settings")
    record = {"network": NETWORK, "seed": 0, "settings": NARROW.as_dict(), "data_hash": "a", "train": [],
              "val": []}
    SOUND_RUN[RECORD_FILE] = json.dumps(record).encode()
    weights = {name: tensor.contiguous() for name, tensor in state.network.state_dict().items()}
    SOUND_RUN[WEIGHTS_FILE] = safetensors.torch.save(weights)
    for number, content in enumerate((*SOUND_RUN.values(),
                                      (FOLDER / "run/checkpoint.safetensors").read_bytes())):
        add(count + 4 + number, content)


def main() -> None:
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    seed(corpus)
    given = sys.argv[1:] or [str(SECONDS)]
    words = given if not given[0].isdecimal() else [str(corpus), f"-max_total_time={given[0]}", *given[1:]]
    atheris.Setup([sys.argv[0], *LIMITS, *words], one)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_MEMORY, resource.RLIM_INFINITY))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
