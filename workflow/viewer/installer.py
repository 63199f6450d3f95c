"""itkwidgets without a network: `python workflow/viewer install`, `check`, `uninstall` and `bundle`.

Everything is added in one folder beside what JupyterLab's extension brought, and one file is changed:
package.json, whose single line says which of the two JupyterLab loads. So an installation takes effect at
once or not at all, whenever it is interrupted, and removing it gives the old bytes back.
"""

import argparse
import base64
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import packages
from jupyter_core.paths import jupyter_path

from magunet.base import provenance
from magunet.base.errors import InputError
from magunet.base.progress import say

MANIFEST = "manifest.json"
"""In the added folder: what made it, and the sha256 of every file."""
BY_HAND = ("bring a file from another machine: 'python workflow/viewer bundle FILE' there, "
           "'python workflow/viewer install --bundle FILE' here")
"""What to do where npm cannot fetch anything."""
LONGEST = 900
"""Seconds that npm may take in all."""
PATIENCE = 30
"""Seconds that npm waits for a registry that is silent."""
LARGEST_FILE = 128 * 2**20
"""Bytes of a package; ours have at most 40 MB."""
ORIGINAL, OURS = (f'"load": "{folder}/{packages.REMOTE_ENTRY}"' for folder in ("static", packages.FOLDER))
"""The line of package.json, as published and with the viewer installed."""


def extension_folder() -> Path:
    """The folder of the extension that JupyterLab serves: the first one on Jupyter's path.

    Raises InputError when there is none, or when it is of another version than the changes are known to fit.
    """
    folders = (Path(folder) / packages.EXTENSION for folder in jupyter_path("labextensions"))
    folder = next((f for f in folders if (f / "package.json").is_file()), None)
    if folder is None:
        raise InputError(f"the JupyterLab extension {packages.EXTENSION} is not installed; python -m pip install "
                         f"imjoy_jupyterlab_extension=={packages.EXTENSION_VERSION}")
    try:
        version = json.loads((folder / "package.json").read_text(encoding="utf-8")).get("version")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{folder / 'package.json'}: is damaged; python -m pip install --force-reinstall --no-deps "
                         f"imjoy_jupyterlab_extension=={packages.EXTENSION_VERSION}") from error
    if version != packages.EXTENSION_VERSION:
        raise InputError(f"{folder}: version {version} of the extension is not known to magunet; python -m pip install "
                         f"imjoy_jupyterlab_extension=={packages.EXTENSION_VERSION}")
    return folder


def install(bundle: Path | None = None) -> tuple[Path, bool]:
    """Make itkwidgets draw without a network; returns the folder, and whether anything had to be done.

    The packages come from npm, or from a file that `write_bundle` made; either way each must have its
    recorded hash. Raises InputError, and changes nothing, when that cannot be done.
    """
    extension = extension_folder()
    if not installed_problems(extension):
        return extension / packages.FOLDER, False
    if not os.access(extension, os.W_OK):
        raise InputError(f"{extension}: no permission to write there; ask whoever installed JupyterLab to "
                         "run 'python workflow/viewer install', or use an environment of your own")
    for leftover in extension.glob(".part-*"):              # of an installation that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=extension, prefix=".part-") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        if bundle is None:
            _build(extension / "static", new, _from_npm(Path(scratch)))
        else:
            _build(extension / "static", new, _from_bundle(bundle))
        _switch(extension, OURS,
                ORIGINAL)                  # while the folder changes JupyterLab loads what it always did
        if (extension / packages.FOLDER).exists():
            os.replace(extension / packages.FOLDER, old)
        os.replace(new, extension / packages.FOLDER)
        _switch(extension, ORIGINAL, OURS)
    return extension / packages.FOLDER, True


def uninstall() -> bool:
    """Give the extension its own bytes back; False when there was nothing to remove."""
    extension = extension_folder()
    added = extension / packages.FOLDER
    there = added.exists() or OURS in _package_json(extension)
    _switch(extension, OURS, ORIGINAL)
    if added.exists():
        with tempfile.TemporaryDirectory(dir=extension, prefix=".part-") as scratch:
            os.replace(added, Path(scratch) / "old")
    return there


def problems() -> list[str]:
    """What keeps itkwidgets from drawing without a network, one line each; none when all is well."""
    reasons = []
    for name in ("itkwidgets", "imjoy-rpc", "zarr"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            reasons.append(f"the Python package {name} is not installed; python -m pip install -r requirements.lock")
    try:
        return reasons + installed_problems(extension_folder())
    except InputError as error:
        return [*reasons, str(error)]


def installed_problems(extension: Path) -> list[str]:
    """As `problems`, of the files in the extension's folder only."""
    added = extension / packages.FOLDER
    try:
        manifest = json.loads((added / MANIFEST).read_text(encoding="utf-8"))
        recipe, files = manifest["recipe"], dict(manifest["files"])
    except FileNotFoundError:
        return ["the viewer's programs are not installed; run 'python workflow/viewer install'"]
    except (ValueError, KeyError, TypeError):
        return [f"{added / MANIFEST}: cannot be read; run 'python workflow/viewer install' again"]
    if recipe != _recipe():
        return [f"{added}: was installed by another version of magunet; run 'python workflow/viewer install' again"]
    reasons = [f"{added / name}: {'was changed' if (added / name).is_file() else 'is missing'}; "
               "run 'python workflow/viewer install' again"
               for name, sha256 in files.items()
               if not (added / name).is_file() or provenance.file_hash(added / name) != sha256]
    if OURS not in _package_json(extension):
        reasons.append(f"{extension}: JupyterLab does not load the installed viewer; "
                       "run 'python workflow/viewer install' again")
    return reasons


def write_bundle(path: Path) -> Path:
    """Write one file that holds all npm packages, for `install` on a machine without a network. Returns its
    path."""
    with tempfile.TemporaryDirectory() as scratch:
        fetch = _from_npm(Path(scratch))
        for package in packages.PACKAGES:
            _verified(package, fetch(package), "npm")
        with provenance.whole_file(path) as part, tarfile.open(part, "w") as tar:
            for package in packages.PACKAGES:
                tar.add(Path(scratch) / package.archive, package.archive)
    return path


def _recipe() -> str:
    """Changes with anything that decides the installed files."""
    return provenance.content_hash([vars(p) for p in packages.PACKAGES], packages.STUBS,
                                   [vars(c) for c in packages.CHANGES])


def _package_json(extension: Path) -> str:
    return (extension / "package.json").read_bytes().decode()


def _switch(extension: Path, old: str, new: str) -> None:
    """Put one line of package.json for the other, whole or not at all."""
    text = _package_json(extension)
    if old in text:
        _once(text, old, "package.json")
        with provenance.whole_file(extension / "package.json") as part:
            part.write_bytes(text.replace(old, new).encode())
    elif new not in text:
        raise InputError(f"{extension / 'package.json'}: is not as published; python -m pip install --force-reinstall --no-deps "
                         f"imjoy_jupyterlab_extension=={packages.EXTENSION_VERSION}")


def _build(static: Path, new: Path, fetch: Callable[[packages.Package], bytes]) -> None:
    """The added folder: the extension's own files, the packages' and the stubs, changed; and the manifest."""
    shutil.copytree(static, new)
    for package in packages.PACKAGES:
        _unpack(package, fetch(package), new / package.folder)
    for name, text in packages.STUBS.items():
        (new / name).write_text(text, encoding="utf-8")
    for change in packages.CHANGES:
        file = new / change.file
        text = file.read_bytes().decode() if file.is_file() else ""
        _once(text, change.old, change.file)
        file.write_bytes(text.replace(change.old, change.new).encode())
    files = sorted(path for path in new.rglob("*") if path.is_file())
    hashes = {path.relative_to(new).as_posix(): provenance.file_hash(path) for path in files}
    provenance.write_json(new / MANIFEST, {"recipe": _recipe(), "files": hashes})


def _once(text: str, wanted: str, file: str) -> None:
    if (count := text.count(wanted)) != 1:
        raise InputError(f"{file}: holds {wanted[:60]!r} {count} times and not once, so it is not the file that magunet knows; "
                         f"nothing was changed. python -m pip install --force-reinstall --no-deps "
                         f"imjoy_jupyterlab_extension=={packages.EXTENSION_VERSION}, then try again")


def _unpack(package: packages.Package, archive: bytes, folder: Path) -> None:
    """Write the wanted files of a verified npm archive; they lie below ``package/dist`` in it."""
    wanted = 0
    with tempfile.SpooledTemporaryFile() as stream:
        stream.write(archive)
        stream.seek(0)
        with tarfile.open(fileobj=stream) as tar:
            for member in tar:
                name = member.name.removeprefix("package/")
                target = folder / name.removeprefix("dist/")
                if (member.isfile() and name.startswith(package.keep) and not name.startswith(package.leave)
                        and target.resolve().is_relative_to(folder.resolve())):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tar.extractfile(member).read())
                    wanted += 1
    if not wanted:
        raise InputError(f"{package.archive}: holds none of the wanted files; report this to the project")


def _verified(package: packages.Package, archive: bytes, source: str) -> bytes:
    """The archive, if its hash is the recorded one; else InputError."""
    method, _, recorded = package.integrity.partition("-")
    if base64.b64encode(hashlib.new(method, archive).digest()).decode() != recorded:
        raise InputError(f"{package.name} {package.version} from {source} is not the package that magunet knows (its {method} "
                         "differs); nothing was installed. Try again, and report it to the project if it stays")
    return archive


def _from_npm(scratch: Path) -> Callable[[packages.Package], bytes]:
    """Fetches packages from npm's registry, all in one call, to ``scratch``."""
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"npm, which fetches the viewer's programs, is not installed (Debian: apt-get install npm); {BY_HAND}")
    _run_npm([npm, "pack", *(f"{p.name}@{p.version}" for p in packages.PACKAGES), "--pack-destination",
              str(scratch),
              "--fetch-retries=1", "--fetch-retry-mintimeout=2000", f"--fetch-timeout={1000 * PATIENCE}",
              "--loglevel=error"])
    return lambda package: _verified(package, _read(scratch / package.archive), "npm")


def _run_npm(command: list[str]) -> None:
    say("fetching the viewer's programs with npm, about 52 MB")
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=LONGEST,
                              encoding="utf-8", errors="replace")
    except subprocess.TimeoutExpired:
        raise InputError(f"the viewer's programs could not be fetched within {LONGEST // 60} minutes; check the network, "
                         f"or {BY_HAND}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()
                 and "complete log" not in line] or ["no reason given"]
        raise InputError(f"npm could not fetch the viewer's programs ({lines[0].strip()[:160]}); check the network, or {BY_HAND}")


def _read(path: Path) -> bytes:
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        raise InputError(f"npm did not make {path.name}; update npm and try again")
    return path.read_bytes()


def _from_bundle(path: Path) -> Callable[[packages.Package], bytes]:
    """Reads packages from a file that `write_bundle` made."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; make it with 'python workflow/viewer bundle FILE' "
                         "on a machine with npm and a network")

    def fetch(package: packages.Package) -> bytes:
        try:
            with tarfile.open(path, "r:") as tar:                       # never unpacked, so it cannot grow
                member = tar.getmember(package.archive)
                content = tar.extractfile(member).read() if member.isfile() and member.size <= LARGEST_FILE else b""
        except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
            raise InputError(f"{path}: does not hold {package.archive}; make it again with "
                             "'python workflow/viewer bundle FILE' and the same version of magunet") from error
        return _verified(package, content, str(path))

    return fetch


def main(arguments: list[str] | None = None) -> int:
    """Does what the command line says; returns the exit status, 2 after one line about bad input."""
    parser = argparse.ArgumentParser(prog="python workflow/viewer",
                                     description="itkwidgets without a network")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser("install", help="put the viewer's programs beside JupyterLab's extension")
    action.add_argument("--bundle", metavar="FILE", type=Path,
                        help="take them from this file, not from a network")
    actions.add_parser("uninstall", help="give the extension its own files back")
    actions.add_parser("check", help="say what is wrong, if anything")
    action = actions.add_parser("bundle",
                                help="write the programs to one file, for a machine without a network")
    action.add_argument("file", type=Path, help="such as viewer.tar; about 52 MB")
    options = parser.parse_args(arguments)
    try:
        print(run(options))
    except InputError as error:
        print(f"{parser.prog} {options.action}: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> str:
    """Does an action of the command line; returns what to print. Raises InputError."""
    match options.action:
        case "install":
            folder, changed = install(options.bundle)
            hint = "\nreload JupyterLab's page, and itkwidgets draws in it without a network"
            return f"installed: {folder}{hint}" if changed else f"already installed: {folder}"
        case "uninstall":
            return "removed; JupyterLab's extension is as published" if uninstall() else "nothing to remove"
        case "bundle":
            return str(write_bundle(options.file))
    if reasons := problems():
        raise InputError("; ".join(reasons) + "; until then notebook 10 takes the next viewer")
    return f"ready: {extension_folder()}"
