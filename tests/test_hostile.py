"""Files that were made to do harm: nothing in them is executed, nothing is written outside, and the answer is
one line."""

import gzip
import io
import pickle
import re
import tarfile
import tempfile
import tracemalloc
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from archives import member, tar
from bad_files import SCAN, ZEROS, spoilt, text
from boxes import TINY, write_cohort
from conftest import ROOT, refused
from test_offline import PAGE_TEXT, extension, integrity, npm, offline, parts, snapshot  # noqa: F401

from compendium import sample
from magunet import checkpoint, prepare, train
from magunet.predict import load_model
from magunet.volume import read_volume


@pytest.fixture
def bomb(tmp_path):
    """Unpickled, it makes a file; with the function that says whether it did."""
    mark = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (mark,)

    pickle.loads(pickle.dumps(Bomb()))
    assert mark.exists()
    mark.unlink()
    yield Bomb()
    assert not mark.exists()


def pickled(bomb):
    by_torch, by_numpy = io.BytesIO(), io.BytesIO()
    torch.save({"model": bomb}, by_torch)
    np.savez(by_numpy, image=np.array([bomb], object), mask=np.array([bomb], object), spacing="[1, 1, 1]")
    return {"pickle": pickle.dumps(bomb), "torch": by_torch.getvalue(), "NumPy": by_numpy.getvalue()}


def test_a_pickle_is_no_checkpoint_no_weights_and_no_prepared_case(bomb, run, compendium, capsys):
    """A prepared case lies under the name that the next training looks for; it is prepared anew."""
    state = train.new_state("3D U-Net", TINY, 0, 4, torch.device("cpu"))
    case = write_cohort(compendium / "data" / "boxes").cases["box_0"]
    expected = prepare.prepare_case(case, TINY)[0].image.copy()         # for the file is mapped
    (cached,) = (compendium / "data" / "prepared").iterdir()
    for kind, content in pickled(bomb).items():
        folder = compendium / kind
        text(content)(folder / "c.safetensors")
        checkpoint.restore(state, folder / "c.safetensors", "hash")
        assert "c.safetensors: damaged" in capsys.readouterr().err, kind
        assert state.log == [] and (folder / "c.safetensors").exists(), kind
        text(content)(folder / "weights.safetensors")
        text((run / "run.json").read_bytes())(folder / "run.json")
        refused(partial(load_model, folder), f"{folder}: record and weights cannot be read")
        cached.write_bytes(content)
        again, _ = prepare.prepare_case(case, TINY)
        np.testing.assert_array_equal(again.image, expected, kind)


# Archives ------------------------------------------------------------------------------------------------
CT = f"{sample.PACKAGE}-{sample.VERSION}/{sample.MEMBERS['ct.nii.gz'][0]}"
ESCAPED = Path(tempfile.gettempdir()).resolve() / "magunet-escape.txt"
"""An absolute path that an archive may try to write to."""
OUTSIDE = [member("../escape.txt", content=b"x"), member(str(ESCAPED), content=b"x"),
           member("a", tarfile.SYMTYPE, link=str(ESCAPED.parent)), member(f"a/{ESCAPED.name}", content=b"x")]
SAMPLES = {"a hard link": tar(member("x", content=b"x"), member(CT, tarfile.LNKTYPE, link="x")),
           "other content": tar(*OUTSIDE, member(CT, content=b"ct"))}
NOISE, ONE = np.random.default_rng(0).bytes(40000), "page-1.2.3.tgz"
BUNDLES = {
    "no archive": b"x" * 4000, "empty": b"", "outside": tar(*OUTSIDE, mode="w"),
    "a link": tar(member(ONE, tarfile.SYMTYPE, link="/etc/hostname"), mode="w"),
    "a folder": tar(member(ONE, tarfile.DIRTYPE), mode="w"),
    "damaged gzip": tar(member(ONE, content=NOISE))[:30000],
    "flipped gzip": bytes(byte ^ (0x5A if 5000 < i < 5040 else 0) for i, byte in enumerate(
        tar(member("a", content=b"abcdefgh" * 90000), member(ONE, content=NOISE)))),
    "a bomb": gzip.compress(tar(member("a", content=bytes(2**26)), member(ONE, content=b"x"), mode="w")),
    "too long a header": tar(member(ONE, content=b"x"), mode="w").replace(b"00000000001", b"77777777777", 1)}


def test_of_the_samples_archive_nothing_is_written_but_what_is_known(tmp_path):
    """pip has compared the archive's hash before; a bad archive does not come as far as this."""
    for name, content in SAMPLES.items():
        path = tmp_path / name / "in" / "a.tar.gz"
        text(content)(path)
        refused(partial(sample._extract, path, path.parents[1] / "deep" / "out"), "a.tar.gz", "report this")
        assert set(snapshot(path.parents[1])) == {"in/a.tar.gz"} and not ESCAPED.exists(), name


def test_of_a_hostile_bundle_nothing_is_installed(extension, npm, tmp_path):  # noqa: F811
    for name, content in BUNDLES.items():
        (tmp_path / name).write_bytes(content)
        before = snapshot(tmp_path)
        refused(partial(offline.install, tmp_path / name), name)
        assert snapshot(tmp_path) == before and not ESCAPED.exists(), name


def test_a_package_cannot_write_outside_its_folder(extension, npm, tmp_path, monkeypatch):  # noqa: F811
    """Even one whose hash is recorded. Links and devices in it are not made either."""
    content = tar(member("package/dist/index.html", content=PAGE_TEXT.encode()),
                  member("package/dist/link.js", tarfile.SYMTYPE, link="/etc/hostname"),
                  *(member(f"package/{folder}/escape.js", content=b"x") for folder in (
                      "dist/../../..", f"dist/{tmp_path}", "..", "dist/a/../../../..")))
    npm.contents[ONE] = content
    monkeypatch.setattr(parts, "PACKAGES", (parts.Package("page", "1.2.3", integrity(content), "page"),))
    before = snapshot(tmp_path)
    folder, _ = offline.install()
    assert not list(tmp_path.rglob("escape.js")) and not list(tmp_path.rglob("link.js"))
    assert all((tmp_path / name).is_relative_to(folder) for name in set(snapshot(tmp_path)) - set(before))


# Scans and downloads --------------------------------------------------------------------------------------
def test_of_a_compressed_gigabyte_no_more_is_read_than_the_header_tells_of(tmp_path):
    spoilt(lambda content: content + ZEROS)(tmp_path / "a.nii.gz")
    read_volume(tmp_path / "a.nii.gz")                                  # what is imported once
    tracemalloc.start()
    try:
        assert np.array_equal(read_volume(tmp_path / "a.nii.gz").array, SCAN.array)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


# What the code does not hold -----------------------------------------------------------------------------
DANGER = re.compile(r"""
    ^\s*(import|from)\s+(c?[pP]ickle|dill|cloudpickle|marshal|shelve|socket|socketserver|ssl|http|urllib3?
        |requests|httpx|aiohttp|ftplib|smtplib|telnetlib|xmlrpc|websockets?|webbrowser)\b
    | (?<![\w.])(eval|exec|compile|__import__)\(
    | \b(torch|np|numpy|yaml|joblib)\.load\(
    | \.(system|popen|read_pickle|to_pickle|unsafe_load|full_load|load_all|urlopen|urlretrieve|hub|listen|bind
        |extractall)\b
    | shell=True""", re.VERBOSE | re.MULTILINE)
"""What could execute data or reach a network."""
PROCESSES = {"compendium/sample.py", "magunet/base/provenance.py", "workflow/lock.py",
             "workflow/viewer/installer.py"}
"""These start programs: pip, git (for the revision), uv (for the lock), npm."""


def test_no_module_and_no_notebook_executes_data_or_reaches_a_network():
    for source in (
            "import pickle", "from pickle import loads", "import urllib.request", "from http import server",
            "eval('1')", "exec(text)", "torch.load(path)", "np.load(path, allow_pickle=True)",
            "yaml.load(text, yaml.Loader)", "yaml.unsafe_load(text)", "run('ls', shell=True)", "os.system(a)",
            "pd.read_pickle(path)", "tar.extractall(path)", "torch.hub.load('a', 'b')"):
        assert DANGER.search(f"a = 1\n{source}"), source
    assert not DANGER.search("network.eval(); safetensors.torch.load_file(p); re.compile('a')")
    folders = ("magunet", "sijphantom", "compendium", "workflow")
    sources = {path: path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py")}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        sources[path] = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code")
    assert len(sources) > 100
    assert {path.name: found[0] for path, text in sources.items() if (found := DANGER.search(text))} == {}
    starting = {path.relative_to(ROOT).as_posix() for path, text in sources.items() if "subprocess" in text}
    assert starting == PROCESSES
