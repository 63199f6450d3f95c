"""The files around the module agree with each other: environments, notebooks, workflow, papermill."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace

import nbformat
import pytest
import yaml
from conftest import ROOT, refused
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from compendium import paper
from compendium.grid import BEYOND, LEFT_OUT, seeds_of, workflow_settings
from compendium.grid import trainings as training_order
from magunet.base import profiles
from magunet.studies import ALIASES
from workflow.notebook_page import MATH, equation

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ASKED = {"jupyterlab", "papermill", "numpy", "matplotlib", "itkwidgets", "simpleitk", "pandas", "nbval"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = [Requirement(text) for text in itertools.chain(
    PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())]


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, **options)


def python(*words, **options):
    return run(sys.executable, *words, **options)


def locked(name="requirements.lock"):
    """The packages of a lock: name -> requirement, and the hashes of its files."""
    blocks = re.findall(r"^(\S+==.*?)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", (ROOT / name).read_text(),
                        re.M)
    return {canonicalize_name((pin := Requirement(text)).name): (pin, hashes.count("--hash"))
            for text, hashes in blocks}


def version_of(pin):
    return str(pin.specifier).removeprefix("==")


def test_the_lock_pins_everything_the_project_asks_for_within_its_ranges():
    pins = locked()
    for requirement in WANTED:
        pin, _ = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version_of(pin), prereleases=True), requirement
    assert ASKED | {"torch"} <= {requirement.name.lower() for requirement in WANTED}


def test_every_dependency_has_a_reason_and_its_licence_is_listed():
    done = python(ROOT / "workflow" / "licences.py", check=True)
    assert (ROOT / "THIRD_PARTY.md").read_text() == done.stdout
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in done.stdout.split("|---|\n")[1].splitlines()]
    assert sorted(name for name, _, _ in rows) == sorted(requirement.name for requirement in WANTED)
    assert not [row for row in rows if len(row[2]) <= 4 or row[1] in ("", "not stated", "UNKNOWN")]


def test_conda_installs_the_same_lock_and_a_python_the_project_allows():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    packages, (pip,) = ([d for d in environment["dependencies"] if isinstance(d, kind)]
                        for kind in (str, dict))
    assert pip["pip"] == ["--requirement requirements.lock", "--requirement requirements-gpu.lock"]
    assert sorted(packages) == ["pip", f"python {PROJECT['requires-python']}"]


def test_what_is_installed_here_is_what_is_locked():
    listed = json.loads(python("-m", "pip", "list", "--format=json", check=True).stdout)
    installed = {canonicalize_name(p["name"]): p["version"].split("+")[0] for p in listed}
    for name, (pin, _) in locked().items():
        if pin.marker is None or pin.marker.evaluate():
            assert installed.get(name) == version_of(pin), name


def test_the_wheel_holds_all_three_packages_and_their_data(tmp_path):
    source = tmp_path / "source"
    for name in ("magunet", "sijphantom", "compendium"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"
    python("-m", "pip", "wheel", *options, "--wheel-dir", tmp_path, source, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == files
        (scripts,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert b"magunet = compendium.cli:main" in archive.read(scripts)


def test_every_line_of_a_lock_is_a_pin_with_hashes():
    """Else pip would install none of it, or what it likes."""
    locks = sorted(path.name for path in ROOT.glob("requirements*.lock"))
    assert len(locks) >= 5
    for name in locks:
        lines = [line for line in (ROOT / name).read_text().splitlines() if line[0] != "#"]
        pins = locked(name)
        assert len(lines) == sum(1 + hashes for _, hashes in pins.values()), name
        assert min(hashes for _, hashes in pins.values()) >= 1, name
        assert all(re.fullmatch(r"==[^,*]+", str(pin.specifier)) for pin, _ in pins.values()), name
        gpu = {pin for pin in pins if pin.startswith(("nvidia-", "cuda-", "triton"))}
        assert gpu == (set(pins) if "gpu" in name else set()), name


def test_installing_demands_the_hashes_and_adds_nothing(compendium):
    """The script, with a stand-in for Python that says how it is called; torch's metadata decide about the
    GPU's libraries."""
    shutil.copytree(ROOT / "workflow", compendium / "workflow")
    stand_in, log = compendium / "python", compendium / "log"
    makes_venv = 'case "$*" in *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; esac'
    stand_in.write_text(f'#!/bin/sh\necho "$*" >> {log}\n{makes_venv}\n')
    stand_in.chmod(0o755)
    done = run("sh", "workflow/install.sh", cwd=compendium, env=os.environ | {"PYTHON": str(stand_in)})
    assert done.returncode == 0, done.stderr
    installs = [line for line in log.read_text().splitlines() if "pip install" in line]
    locks = ["requirements-cpu.lock", "requirements.lock", "requirements-gpu.lock"]
    assert [line.split()[-1] for line in installs] == [*locks[bool(shutil.which("nvidia-smi")):], "."]
    assert all({"--require-hashes", "--no-deps"} <= set(line.split()) for line in installs[:-1])
    assert {"--no-deps", "--no-build-isolation"} <= set(installs[-1].split())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_have_the_agreed_form_and_begin_with_the_smoke_profile(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [c for c in cells if c.cell_type == "code"]
    parameters, checks = ([c for c in code if tag in c.metadata.get("tags", [])]
                          for tag in ("parameters", "nbval-check-output"))
    assert parameters == code[:1] and len(code[0].source.splitlines()) == 2, "the profile, below its heading"
    assert checks and all((c in checks) == bool(c.outputs) == (c.execution_count is not None) for c in code)
    exec(code[0].source, namespace := {"In": [code[0].source]})
    assert profiles.from_notebook(namespace) == profiles.load("smoke")
    assert cells[0].source.startswith(f"# {path.stem[:2]} · ")
    assert cells[-1].cell_type == "markdown" and cells[-1].source.startswith("## Try this")
    for cell in code:
        assert len(cell.source.splitlines()) <= 20, cell.source
        for statement in re.findall("^from (?:magunet|compendium|sijphantom).+", cell.source, re.M):
            exec(statement, {})
        for body in re.findall(r"^def .*(?:\n(?:    .*)?)*", cell.source, re.M):
            assert len(body.strip().splitlines()) <= 5, body
    markdown = [c.source for c in cells if c.cell_type == "markdown"]
    assert all(MATH.sub(equation, text) for text in markdown), "an equation that the page cannot show raises"
    assert sum(len(text.split()) for text in markdown) > sum(len(c.source.split()) for c in code[1:])


def papermill(folder, notebook, *words):
    return python("-m", "papermill", str(notebook), "out.ipynb", "--no-progress-bar", *words, cwd=folder,
                  env=os.environ | {"PYTHONWARNINGS": "ignore"})


@pytest.fixture
def probe(compendium):
    """A notebook that reads its parameters and says which."""
    source = nbformat.read(ROOT / "notebooks" / "04_training.ipynb", as_version=4)
    cells = [c for c in source.cells if c.cell_type == "code"][:2]
    cells.append(nbformat.v4.new_code_cell("print(settings.profile, settings.epochs)"))
    (compendium / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=source.metadata),
                   compendium / "notebooks" / "p.ipynb")
    return compendium


@pytest.mark.parametrize("folder, up", [(".", ""), ("notebooks", "../")])
def test_papermill_runs_from_the_root_and_from_notebooks_and_takes_a_profile(probe, folder, up):
    folder = probe / folder
    done = papermill(folder, probe / "notebooks" / "p.ipynb", "-f", f"{up}papermill_params/cpu.yaml")
    assert done.returncode == 0, done.stderr
    printed = nbformat.read(folder / "out.ipynb", as_version=4).cells[-1].outputs[0].text
    assert printed.split() == ["cpu", str(profiles.load("cpu").epochs)]


def test_papermill_with_a_wrong_parameter_fails_and_says_which(probe):
    done = papermill(probe, probe / "notebooks" / "p.ipynb", "-p", "epohcs", "3")
    assert done.returncode != 0
    assert "unknown parameter 'epohcs'; did you mean 'epochs'?" in done.stderr


NETWORKS = {ALIASES.get(row.network, row.network) for table in paper.TABLES for row in table} | {*LEFT_OUT[4]}
MORE = {*BEYOND[1], *BEYOND[2]}


@pytest.mark.slow
def test_the_workflow_trains_every_network_runs_every_notebook_and_fails_on_an_unknown_profile():
    def dry_run(profile, *words):
        return snakemake(ROOT, "--dry-run", "--forceall", "--printshellcmds", "--config",
                         f"profile={profile}", *words)

    for profile, *words in (("smoke", "--cores", "2"), ("gpu", "--cores", "8", "--resources", "gpu=4"),
                            ("paper", "--workflow-profile", "workflow/slurm")):
        done = dry_run(profile, *words)
        assert done.returncode == 0, done.stderr
        plan = done.stdout + done.stderr
        for path in NOTEBOOKS:
            assert f"notebooks/{path.name}" in plan
        named = NETWORKS | (MORE if profile == "gpu" else set())
        runs = set(re.findall(r"compendium train '(.+?)' --profile \w+ --seed (\d+)", plan))
        settings = profiles.load(profile)
        assert runs == {(name, str(seed)) for name in named for seed in seeds_of(name, settings)}
    assert dry_run("smok", "--cores", "2").returncode != 0
    beyond = dry_run("smoke", "--cores", "2", "--config", "profile=smoke", "beyond=true").stdout
    assert all(f"compendium train '{name}' --profile smoke" in beyond for name in (*MORE, "MAG-UNet"))


def test_the_workflow_takes_profile_and_beyond_and_nothing_that_it_would_not_heed():
    for config, profile, beyond in [
            ({}, "smoke", False), ({"profile": "gpu"}, "gpu", True), ({"beyond": True}, "smoke", True),
            ({"beyond": "false"}, "smoke", False), ({"profile": "cpu", "beyond": "true"}, "cpu", True),
            ({"profile": "gpu", "beyond": "False"}, "gpu", False)]:             # as Snakemake passes them
        settings, runs = workflow_settings(config)
        assert settings == profiles.load(profile), config
        assert {name for name, _ in runs} == NETWORKS | (MORE if beyond else set()), config
    for config, words in [({"Profile": "cpu"}, "--config Profile"), ({"beyond": "no"}, "beyond=no: must be"),
                          ({"beyond": 0}, "beyond=0"), ({"profile": "cpu", "seeds": 3}, "--config seeds"),
                          ({"profile": 7}, "7.yaml: no such settings"), ({"profile": "smok"}, "smok.yaml"),
                          ({"profile": "papermill_params/cpu.yaml"}, "must be a name")]:
        refused(lambda config=config: workflow_settings(config), words)


def test_table_4_is_trained_first_and_seed_by_seed_and_others_with_fewer_seeds():
    settings, runs = workflow_settings({"profile": "cpu"})
    fourth = {ALIASES.get(row.network, row.network) for row in paper.TABLES[3]} | {*LEFT_OUT[4]}
    assert len(fourth) == 10 and runs[0] == ("3D U-Net", 0)
    assert [seed for _, seed in runs[:100]] == [seed for seed in range(10) for _ in fourth]
    assert {*runs[:100]} == {*itertools.product(fourth, range(10))}
    others = (NETWORKS | MORE) - fourth
    assert [seed for _, seed in runs[100:]] == [seed for seed in range(4) for _ in others]
    assert {*runs[100:]} == {*itertools.product(others, range(4))}
    assert seeds_of("MAG-UNet", settings) == tuple(range(10))
    assert seeds_of("SegNet", settings) == tuple(range(4))
    few = replace(settings, networks=("[3,5,7]", "+MFF", "[1,3,5]"), seeds=(7, 5), other_seeds=None)
    assert training_order(few) == [("+MFF", 7), ("+MFF", 5), ("[3,5,7]", 7), ("[3,5,7]", 5)]
    refused(lambda: training_order(replace(few, networks=("MAGUNet",))), "unknown network 'MAGUNet'")


def copy_workflow(compendium, *left, **settings):
    """The workflow and the smoke profile with other settings in a compendium, where all networks but those
    left have their receipts, in the order in which the workflow makes them; returns the receipts' folder."""
    shutil.copytree(ROOT / "workflow", compendium / "workflow")
    text = (ROOT / "papermill_params" / "smoke.yaml").read_text()
    for name, value in settings.items():
        text = re.sub(rf"^{name}: \S+", f"{name}: {value}", text, flags=re.M)
    (compendium / "papermill_params" / "smoke.yaml").write_text(text)
    receipts = compendium / "runs" / "smoke" / "receipts"
    receipts.mkdir(parents=True)
    (receipts / "cohort.txt").touch()
    files = ["-".join(re.findall(r"\w+", network)) for network in NETWORKS - set(left)]
    for step, file, seed in itertools.product(("train", "evaluate"), files, (0, 1)):
        (receipts / f"{step}-{file}-s{seed}.txt").touch()
    return receipts


def snakemake(compendium, *words):
    return python("-m", "snakemake", "--snakefile", "workflow/Snakefile", "--nolock", "--rerun-triggers",
                  "mtime", *words, cwd=compendium)


@pytest.mark.slow
@pytest.mark.parametrize("trained, says", [(False, "failed: SegNet, seed 0\n"),
                                           (True, "failed: SegNet, seed 0, when it was scored\n")])
def test_a_network_that_fails_is_named_at_the_end_and_tried_again(trained, says, compendium):
    receipts = copy_workflow(compendium, "SegNet", cohort="data/nowhere")    # without data, it fails
    if trained:
        (receipts / "train-SegNet-s0.txt").write_text("runs/nowhere\n")
    done = snakemake(compendium, "--cores", "1", "--keep-going", "--allowed-rules", "train", "evaluate",
                     "grid", "--", "runs/smoke/receipts/grid.txt")
    assert done.returncode != 0
    assert ("runs/nowhere" if trained else "data/nowhere") in done.stderr
    assert done.stderr.count(says) == 1 and "not finished:" not in done.stderr
    assert not {f"{step}-SegNet-s0.txt" for step in ("train", "evaluate")} & set(os.listdir(receipts))
    assert not (receipts / "grid.txt").exists()


@pytest.mark.slow
def test_a_broken_off_grid_has_the_networks_of_table_4_first_seed_by_seed(compendium):
    copy_workflow(compendium, "SegNet", "3D U-Net", "+SE", "MAG-UNet", cohort="data/nowhere", seeds="[0,1]")
    done = snakemake(compendium, "--cores", "1", "--scheduler", "greedy", "--keep-going", "--printshellcmds",
                     "--allowed-rules", "train", "evaluate", "grid", "--", "runs/smoke/receipts/grid.txt")
    order = re.findall(r"compendium (?:train '(.+?)' --profile smoke --seed (\d)|evaluate .*\n)", done.stderr)
    trained = [step for step in order if step[0]]
    assert {*trained[:2]} == {("3D U-Net", "0"), ("MAG-UNet", "0")}
    assert {*trained[2:4]} == {("3D U-Net", "1"), ("MAG-UNet", "1")}
    assert {*trained[4:6]} == {("SegNet", "0"), ("+SE", "0")}
    assert {*trained[6:]} == {("SegNet", "1"), ("+SE", "1")}
    # each is scored at once
    assert [bool(network) for network, _ in order] == [True, False] * 8


@pytest.mark.slow
def test_what_was_not_begun_is_not_named_as_not_finished(compendium):
    receipts = copy_workflow(compendium, *NETWORKS, cohort="data/nowhere")
    (receipts / "cohort.txt").unlink()
    for trained in ("", "not finished: SegNet, seed 0\n"):
        if trained:
            receipts.mkdir(parents=True, exist_ok=True)
            (receipts / "train-SegNet-s0.txt").write_text("runs/a")
        done = snakemake(compendium, "--cores", "1", "--", "runs/smoke/receipts/grid.txt")
        assert done.returncode and "data/nowhere" in done.stderr
        assert trained in done.stderr and done.stderr.count("not finished") == bool(trained), done.stderr


def test_no_machine_path_or_registry_host_is_committed():
    listed = run("git", "-C", ROOT, "ls-files", "-z").stdout.split("\0")
    files = [ROOT / name for name in listed if name and (ROOT / name).exists()]
    if not files:
        pytest.skip("not a git checkout")
    words = ("/(?:wo" + "rk|ro" + "ot)/", "pypi" + r"\.org", "python" + "hosted", "npm" + r"js\.",
             "deb" + r"\.debian")
    forbidden = re.compile("|".join(words))
    assert sum(path.stat().st_size for path in files) < 10 * 2**20
    for path in files:
        assert path.stat().st_size < 2**20 * (8 if path.suffix == ".safetensors" else 1), path
        if path.suffix not in (".png", ".gz", ".safetensors"):              # a PDF is not all text
            assert not forbidden.search(path.read_text(errors="ignore")), path


@pytest.mark.slow
@pytest.mark.parametrize("source, succeeds", [("1 + 1", True), ("1 / 0", False)])
def test_a_page_of_a_notebook_needs_no_network_has_parameters_once_and_one_that_fails_stays_to_be_read(
        compendium, source, succeeds):
    receipts = copy_workflow(compendium)
    (compendium / "notebooks").mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = nbformat.v4.new_code_cell("# Parameters\nprofile = 'cpu'", metadata={"tags": ["parameters"]}), \
        nbformat.v4.new_markdown_cell(text := "With $a_1 * b_1 * c$, `$HOME`:\n\n$$\\frac{a}{|b|}$$"), \
        nbformat.v4.new_code_cell(source)
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, compendium / "notebooks" / "one.ipynb")
    (receipts / "sample.txt").touch()
    target = "runs/smoke/notebooks/one.html"
    done = snakemake(compendium, "--cores", "1", "--allowed-rules", "notebook", "--quiet", "host", "progress",
                     "reason", "rules", "--", target)
    assert (done.returncode == 0) == (compendium / target).exists() == succeeds, done.stderr
    assert (executed := nbformat.read(compendium / "runs/smoke/notebooks/one.ipynb", 4)).cells[-1].outputs
    assert succeeds or "ZeroDivisionError" in done.stderr
    if succeeds:
        assert [c.source for c in executed.cells] == ['# Parameters\nprofile = "smoke"\n', text, source]
        page = (compendium / target).read_text()
        assert len(re.findall(r"<math[^>]*>.*?</math>", page, re.S)) == 2 and "<code>$HOME</code>" in page
        assert "<em>" not in page and not re.search(r'(?:src|<link[^>]*href)="(?:https?:)?//', page)
        for name in {link for path in NOTEBOOKS for link in re.findall(r"\]\(\.\./(\w+)/", path.read_text())}:
            assert (compendium / "runs/smoke" / name).readlink().as_posix() == f"../../{name}"
