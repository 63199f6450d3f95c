"""Files that were made to do harm: nothing in them is executed, nothing is written outside, and the answer is
one line."""

import ast
import gzip
import io
import pickle
import struct
import subprocess
import tarfile
import tempfile
import tracemalloc
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from boxes import TINY, write_cohort
from conftest import ROOT, refused
from test_cli import call
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


def as_torch(bomb):
    stream = io.BytesIO()
    torch.save({"model": bomb}, stream)
    return stream.getvalue()


def as_npz(bomb):
    stream = io.BytesIO()
    np.savez(stream, image=np.array([bomb], object), mask=np.array([bomb], object), spacing="[1, 1, 1]")
    return stream.getvalue()


PICKLES = {"pickle": pickle.dumps, "torch": as_torch, "npz": as_npz}


# Pickles ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("form", PICKLES)
def test_a_pickle_is_no_checkpoint_and_no_weights(form, bomb, run, tmp_path, capsys):
    content = PICKLES[form](bomb)
    (tmp_path / "c.safetensors").write_bytes(content)
    state = train.new_state("3D U-Net", TINY, 0, 4, torch.device("cpu"))
    checkpoint.restore(state, tmp_path / "c.safetensors", "hash")
    assert ("c.safetensors: damaged" in capsys.readouterr().err and state.log == []
            and not (tmp_path / "c.safetensors").exists())
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_bytes((run / "run.json").read_bytes())
    (folder / "weights.safetensors").write_bytes(content)
    refused(lambda: load_model(folder), str(folder), "cannot be read or do not fit together",
            "train the run again")


@pytest.mark.parametrize("form", PICKLES)
def test_a_pickle_is_no_prepared_case(form, bomb, compendium):
    """In the cache, under the name that the next training looks for: it is removed, and the case prepared
    anew."""
    case = write_cohort(compendium / "data" / "boxes").cases["box_0"]
    # for the file is mapped
    expected = prepare.prepare_case(case.name, case.image, case.label, TINY)[0].image.copy()
    (cached,) = (compendium / "data" / "prepared").iterdir()
    cached.write_bytes(PICKLES[form](bomb))
    again, _ = prepare.prepare_case(case.name, case.image, case.label, TINY)
    np.testing.assert_array_equal(again.image, expected)


# Settings -----------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
YAMLS = {
    "object": ("cases: !!python/object/apply:os.mkdir [MARK]", "not valid YAML"),
    "system": ("cases: !!python/object/apply:os.system ['touch MARK']", "not valid YAML"),
    "name": ("cases: !!python/name:os.system", "not valid YAML"),
    "laughs": (LAUGHS + "seeds: *a9", "unknown parameter 'a0'"),
    "many": ("seeds: [" + "&a [[[[[[lol, lol]]]]]], " + "*a, " * 999 + "*a]",
             "parameter 'seeds' must be a valid integer"),
    "itself": ("seeds: &a [*a]", "parameter 'seeds' must be a valid integer"),
    "deep": ("cases: " + "[" * 50_000 + "]" * 50_000, "not valid YAML"),
    "long number": ("cases: " + "9" * 5000, "not valid YAML"),
    "no date": ("cases: 2026-99-99", "not valid YAML"),
    "key": ("cases: 3\n? [a]\n: 1", "not valid YAML"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_settings_execute_nothing_and_do_not_grow(name, compendium, capsys):
    text, says = YAMLS[name]
    lines = [line for line in (compendium / "papermill_params" / "smoke.yaml").read_text().splitlines()
             if line.split(":")[0] not in text]
    path = compendium / "smoke.yaml"
    path.write_text("\n".join([*lines, text.replace("MARK", str(compendium / "executed"))]) + "\n")
    status, out, said = call(capsys, "cohort", "--profile", path)
    assert (status == 2 and f"{path}: {says}" in said and said.count("\n") == 1 and len(said) < 1000 and out
            == "")
    assert not (compendium / "executed").exists() and not (compendium / "data").exists()


# Archives ------------------------------------------------------------------------------------------------

def member(name, kind=tarfile.REGTYPE, content=b"", link="", size=None):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content) if size is None else size
    return info, content


def tar(*members, mode="w:gz"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as made:
        for info, content in members:
            made.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return stream.getvalue()


CT = f"{sample.PACKAGE}-{sample.VERSION}/{sample.MEMBERS['ct.nii.gz'][0]}"
ESCAPED = Path(tempfile.gettempdir()).resolve() / "magunet-escape.txt"
"""An absolute path that an archive may try to write to."""
OUTSIDE = [member("../escape.txt", content=b"x"), member(str(ESCAPED), content=b"x"),
           member("a", tarfile.SYMTYPE, link=str(ESCAPED.parent)), member(f"a/{ESCAPED.name}", content=b"x")]
SAMPLES = {
    "a hard link": tar(member("x", content=b"x"), member(CT, tarfile.LNKTYPE, link="x")),
    "other content": tar(*OUTSIDE, member(CT, content=b"ct"))}


@pytest.mark.parametrize("name", SAMPLES)
def test_of_the_samples_archive_nothing_is_written_but_what_is_known(name, tmp_path):
    """pip has compared the archive's hash before; a bad archive does not come as far as this."""
    path = tmp_path / "in" / f"{sample.PACKAGE}-{sample.VERSION}.tar.gz"
    path.parent.mkdir()
    path.write_bytes(SAMPLES[name])
    refused(lambda: sample._extract(path, tmp_path / "deep" / "out"), path.name, "report this to the project")
    assert set(snapshot(tmp_path)) == {f"in/{path.name}"} and not ESCAPED.exists()


BUNDLES = {
    "no archive": b"x" * 4000, "empty": b"",
    "a link": tar(member("page-1.2.3.tgz", tarfile.SYMTYPE, link="/etc/hostname"), mode="w"),
    "a folder": tar(member("page-1.2.3.tgz", tarfile.DIRTYPE), mode="w"), "outside": tar(*OUTSIDE, mode="w"),
    "damaged gzip": tar(member("page-1.2.3.tgz", content=np.random.default_rng(0).bytes(40000)))[:30000],
    "flipped gzip": bytes(byte ^ (0x5A if 5000 < i < 5040 else 0) for i, byte in enumerate(
        tar(member("a", content=b"abcdefgh" * 90000),
            member("page-1.2.3.tgz", content=np.random.default_rng(0).bytes(40000))))),
    "a bomb": gzip.compress(tar(member("a", content=bytes(2**26)), member("page-1.2.3.tgz", content=b"x"),
                                mode="w")),
    "too long a header": tar(member("page-1.2.3.tgz", content=b"x"), mode="w").replace(
        b"00000000001\0", b"77777777777\0", 1),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_of_a_hostile_bundle_nothing_is_installed(name, extension, npm, tmp_path):  # noqa: F811
    path = tmp_path / "viewer.tar"
    path.write_bytes(BUNDLES[name])
    before = snapshot(tmp_path)
    refused(lambda: offline.install(path), "viewer.tar")
    assert snapshot(tmp_path) == before and not ESCAPED.exists()


@pytest.mark.parametrize("name", [
    "dist/../../../escape.js", "dist//ESCAPE/escape.js", "../escape.js", "dist/a/../../../../escape.js"])
def test_a_package_cannot_write_outside_its_folder(name, extension, npm, tmp_path, monkeypatch):  # noqa: F811
    """Even one whose hash is recorded. Links and devices in it are not made either."""
    name = name.replace("/ESCAPE", str(tmp_path))
    page = member("package/dist/index.html", content=PAGE_TEXT.encode())
    link = member("package/dist/link.js", tarfile.SYMTYPE, link="/etc/hostname")
    content = tar(page, member(f"package/{name}", content=b"x"), link)
    npm.contents["page-1.2.3.tgz"] = content
    monkeypatch.setattr(parts, "PACKAGES", (parts.Package("page", "1.2.3", integrity(content), "page"),))
    before = snapshot(tmp_path)
    folder, _ = offline.install()
    assert not list(tmp_path.rglob("escape.js")) and not list(tmp_path.rglob("link.js"))
    assert {name for name in set(snapshot(tmp_path)) - set(before)
            if not (tmp_path / name).is_relative_to(folder)} == set()


# Scans --------------------------------------------------------------------------------------------------

ZEROS = gzip.compress(bytes(2**24)) * 64
"""A megabyte that unpacks to a gigabyte."""


def nifti_header(shape, code=4, bits=16):
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, code, bits)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    struct.pack_into("<h", header, 252, 1)
    header[344:348] = b"n+1\0"
    return bytes(header)


def test_of_a_compressed_gigabyte_no_more_is_read_than_the_header_tells_of(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti_header((4, 5, 6))) + ZEROS)
    read_volume(path)                                                   # what is imported once
    tracemalloc.start()
    try:
        assert read_volume(path).array.shape == (4, 5, 6)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


TEXT = {".nrrd": "NRRD0004\ntype: short\ndimension: 3\nsizes: {0} {0} {0}\nencoding: {1}\nendian: little\n\n",
        ".mha": "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = {1}\n"
                "DimSize = {0} {0} {0}\n"
                "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"}


@pytest.mark.parametrize("ending, packed", [
    (".nii", False), (".nii.gz", True), (".nrrd", False), (".nrrd", True), (".mha", False), (".mha", True)])
def test_a_scan_that_claims_to_be_huge_is_one_line(ending, packed, run, tmp_path, capsys):
    path = tmp_path / f"scan{ending}"
    if ending in TEXT:
        kind = {".nrrd": "gzip" if packed else "raw", ".mha": packed}[ending]
        path.write_bytes(TEXT[ending].format(60_000, kind).encode() + ZEROS)
    else:
        head = nifti_header((32_000, 32_000, 32_000))
        path.write_bytes(gzip.compress(head) + ZEROS if packed else head)
    status, _, said = call(capsys, "predict", path, "--model", run, "--out", tmp_path / "out")
    assert status == 2 and said.count("\n") == 1 and str(path) in said, said
    assert not (tmp_path / "out").exists()


# Downloads ----------------------------------------------------------------------------------------------

def test_the_sample_is_asked_for_by_name_version_and_hash_and_written_whole(compendium, monkeypatch):
    """With a stand-in for pip; an archive is taken only if pip, which compares the hash, returns 0."""
    calls = []

    def pip(command, **_):
        calls.append((command, Path(command[command.index("--requirement") + 1]).read_text()))
        (Path(command[-1]) / f"{sample.PACKAGE}-{sample.VERSION}.tar.gz").write_bytes(b"half")
        return subprocess.CompletedProcess(command, 1, "", "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES")

    monkeypatch.setattr(sample.subprocess, "run", pip)
    refused(sample.fetch_sample, "DO NOT MATCH THE HASHES", "run 'magunet sample' again")
    (command, pin), = calls
    assert ("--require-hashes" in command and pin
            == f"{sample.PACKAGE}=={sample.VERSION} --hash=sha256:{sample.ARCHIVE_SHA256}\n")
    assert not (compendium / "data").exists()


# What the code does not hold -------------------------------------------------------------------------------

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "socket",
                     "socketserver", "ssl",
                     "http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "ftplib", "smtplib",
                     "telnetlib", "xmlrpc",
                     "websocket", "websockets", "webbrowser"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {"system", "popen", "read_pickle", "to_pickle", "unsafe_load", "full_load", "load_all",
                     "urlopen",
                     "urlretrieve", "hub", "listen", "bind"}
PROCESSES = {"compendium/sample.py", "magunet/base/provenance.py", "workflow/lock.py",
             "workflow/viewer/installer.py"}
"""These start programs: pip, git (for the revision), uv (for the lock), npm."""


def dangers(source: str) -> list[str]:
    """What in a piece of Python could execute data or reach a network, a line each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = ([node.module or ""] if isinstance(node, ast.ImportFrom)
                     else [alias.name for alias in node.names])
            found += [f"{node.lineno}: import {name}"
                      for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_METHODS:
            found.append(f"{node.lineno}: .{node.attr}")
        if isinstance(node, ast.Call):
            given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            name = ast.unparse(node.func)
            if name in FORBIDDEN_CALLS or given.get("shell"):
                found.append(f"{node.lineno}: {name}")
            if name in ("torch.load", "np.load", "numpy.load", "yaml.load", "joblib.load") and not (
                    given.get("weights_only") is True or given.get("allow_pickle") is False):
                found.append(f"{node.lineno}: {name} of anything")
            if name.endswith(".extractall") and given.get("filter") != "data":
                found.append(f"{node.lineno}: {name}")
    return found


@pytest.mark.parametrize("source", [
    "import pickle", "from pickle import loads", "import urllib.request", "from http import server",
    "eval('1')", "exec(text)",
    "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)",
    "np.load(path, allow_pickle=True)",
    "yaml.load(text, yaml.Loader)", "yaml.unsafe_load(text)", "subprocess.run('ls', shell=True)",
    "os.system('ls')",
    "pd.read_pickle(path)", "tar.extractall(path)", "torch.hub.load('a', 'b')"])
def test_the_search_for_dangers_finds(source):
    assert len(dangers(source)) >= 1
    assert not dangers("network.eval(); safetensors.torch.load_file(p); np.load(p, allow_pickle=False)")
    assert not dangers("re.compile('a')")


def test_no_module_and_no_notebook_executes_data_or_reaches_a_network():
    folders = ("magunet", "sijphantom", "compendium", "workflow")
    sources = {path: path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py")}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        sources[path] = "\n".join(cells).replace("%matplotlib inline", "")      # any other magic is no Python
    assert len(sources) > 100
    assert {path.name: found for path, source in sources.items() if (found := dangers(source))} == {}
    starting = {path.relative_to(ROOT).as_posix()
                for path, source in sources.items() if "subprocess" in source}
    assert starting == PROCESSES
