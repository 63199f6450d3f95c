"""Settings are read strictly, wherever they come from; hashes change with what matters; files are whole."""

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from conftest import refused

from benchmarks import recipe
from compendium import paper
from magunet.base import profiles, project, provenance
from magunet.base.profiles import Settings, from_mapping, from_notebook, load
from magunet.studies import NETWORKS

FOLDER = project.root() / "papermill_params"
SMOKE = yaml.safe_load((FOLDER / "smoke.yaml").read_text())


# Profiles ---------------------------------------------------------------------------------------------
def test_every_profile_loads_under_its_own_name_and_survives_json_and_yaml():
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    assert names == ["adamw", "cpu", "gpu", "locator", "paper", "smoke", "weights"]
    for name in names:
        settings = load(name)
        assert settings.profile == name and settings.cohort is None
        assert settings == load(str(FOLDER / f"{name}.yaml"))
        for text in (json.dumps(settings.as_dict()), yaml.safe_dump(settings.as_dict())):   # JSON is YAML
            assert from_mapping(yaml.safe_load(text), "test") == settings, name


def test_the_paper_profile_is_the_papers():
    settings = load("paper")
    assert (settings.depth, settings.size, settings.size) == paper.INPUT_SIZE
    assert (settings.cases, settings.cases + settings.test_cases) == (paper.TRAIN_CASES, paper.CASES)
    assert (settings.scan_slices, settings.scan_matrix, settings.augmentation) == (paper.SLICES, 512, "paper")
    assert (settings.width_divisor, settings.slice_mm, settings.voxel_mm) == (1, None, None)
    assert (settings.epochs, settings.learning_rate, settings.weight_decay) == (300, 1e-4, 1e-4)  # Sec. 2.1.3
    assert (settings.schedule, settings.samples_per_case, settings.optimizer) == ("constant", 1, "adam")
    assert (settings.warmup_steps, settings.clip_norm) == (0, None)


def test_no_seed_of_a_scored_phantom_is_of_any_other_and_most_profiles_see_regions():
    """Nor is it one of the benchmarks' or of the 20 that the recipe was chosen on."""
    all_of, known = {path.stem: load(path.stem) for path in FOLDER.glob("*.yaml")}, set(range(40_000, 40_020))
    for settings in all_of.values():
        known |= set(range(settings.cohort_seed, settings.cohort_seed + settings.cases))
    for path in (project.root() / "benchmarks").rglob("*.py"):
        known |= {int(number.replace("_", "")) for number in re.findall(r"\b\d[\d_]*\b", path.read_text())}
    for name, settings in all_of.items():
        scored = set(range(settings.test_seed, settings.test_seed + settings.test_cases))
        assert not scored & known, name
        for other in all_of.values():               # adamw is cpu's second arm, scored on the same phantoms
            others = range(other.test_seed, other.test_seed + other.test_cases)
            assert {name, other.profile} == {"adamw", "cpu"} or other is settings or not scored & {*others}
    on_regions = {name for name, settings in all_of.items() if not settings.depth}
    assert on_regions == {"smoke", "cpu", "adamw", "gpu", "weights"} and all(
        all_of[name].shape == tuple(round(side / all_of[name].voxel_mm) for side in (120, 120, 176))
        for name in on_regions)
    assert all_of["paper"].shape == paper.INPUT_SIZE and all_of["locator"].shape == (48, 96, 96)


def test_the_plan_of_the_recipe_knows_every_stored_trial_so_that_none_is_run_again():
    stored = recipe.all_trials(project.root() / "benchmarks" / recipe.FILE, FOLDER / "none")["trial"]
    plan = {recipe.name_of(*one) for one in recipe.plan(recipe.KINDS, NETWORKS)}
    assert len(stored) > 130 and {*stored} <= plan


def test_windows_have_depth_and_size_and_regions_have_neither():
    planes = dict(voxel_mm=None, depth=32, size=64)
    for voxel in (None, 3.0):
        assert from_mapping(SMOKE | planes | dict(voxel_mm=voxel), "here").shape == (32, 64, 64)
    for change in (dict(depth=32), dict(size=64), planes | dict(depth=None), planes | dict(size=None),
                   dict(voxel_mm=None)):
        refused(lambda change=change: from_mapping(SMOKE | change, "here"), "here: parameters 'depth' and "
                "'size' must be numbers, or both null with 'voxel_mm', which is the region of interest; got ")


def test_a_profile_may_lie_anywhere_has_its_files_name_and_is_found_from_below(compendium, monkeypatch):
    """What a broken one is told is in test_bad_input.py."""
    (compendium / "mein Profil ä.yml").write_text(yaml.safe_dump(SMOKE | {"profile": "mein Profil ä"}))
    assert load(str(compendium / "mein Profil ä.yml")).profile == "mein Profil ä"
    (compendium / "mine.yml").write_text(yaml.safe_dump(SMOKE))             # so that folders agree
    refused(lambda: load("mine.yml"), "mine.yml: profile must be 'mine', the file's name; got 'smoke'")
    refused(lambda: load("papr"), "papr.yaml: no such settings; papermill_params has adamw, cpu, gpu")
    (compendium / "notebooks").mkdir()
    monkeypatch.chdir(compendium / "notebooks")
    # YAML reads 1e-4 as text
    text = (FOLDER / "smoke.yaml").read_text().replace("profile: smoke", "profile: mine")
    text = text.replace("learning_rate: 0.003", "learning_rate: 1e-4")
    (compendium / "papermill_params/mine.yaml").write_text(text)
    assert yaml.safe_load(text)["learning_rate"] == "1e-4" and load("mine").learning_rate == 1e-4


# Values -----------------------------------------------------------------------------------------------
def test_an_unknown_name_gets_the_nearest_one_and_every_setting_must_be_there_and_says_what_it_means():
    for wrong, hint in (("learning_rte", "did you mean 'learning_rate'?"), ("seed", "did you mean 'seeds'?"),
                        ("xyzzy", "papermill_params/smoke.yaml has all there are"), (3, "papermill_params")):
        refused(lambda wrong=wrong: from_mapping(SMOKE | {wrong: 1}, "here"),
                f"here: unknown parameter {str(wrong)!r}; {hint}")
    for name, field in Settings.__pydantic_fields__.items():
        refused(lambda name=name: from_mapping({k: v for k, v in SMOKE.items() if k != name}, "here"),
                "here", f"{name!r} is missing", "smoke.yaml")
        refused(lambda name=name: from_mapping(SMOKE | {name: {}}, "here"), f"{name!r} must be",
                field.description)


FINITE, PRECISIONS = "finite number", "'auto', 'float32' or 'bfloat16'"
WRONG = {
    "cases": [(0, "1"), (True, "integer"), ("6", "integer")], "depth": [(15, "16")], "size": [(15, "16")],
    "test_cases": [(0, "1"), (None, "integer")], "test_seed": [(-1, "0"), (None, "integer")],
    "voxel_mm": [(0.4, "0.5"), ("fine", "number")],
    "optimizer": [("sgd", "'adam' or 'adamw'")], "warmup_steps": [(-1, "0"), (0.5, "integer")],
    "clip_norm": [(0, "0.000001"), ("inf", FINITE)], "other_seeds": [(0, "1"), ("all", "integer")],
    "networks": [("MAG-UNet", "list"), ([1], "string")],
    "learning_rates": [("high", "list"), ([["+DA", 0]], "0.000000000001")],
    "scan_matrix": [(31, "32")], "epochs": [(0, "1"), (2.0, "integer"), (None, "integer")],
    "scan_slices": [([15, 20], "16"), ([30, 20], "a pair, fewest and most"), ([16], "2 items"),
                    ([16, 20, 24], "2 items"), ([16, 20.5], "integer"), ("16", "list")],
    "samples_per_case": [(0, "1")], "width_divisor": [(0, "1")],
    "target_mm": [(-1.0, "0.1"), (float("nan"), FINITE)], "margin_mm": [(-0.1, "0"), (float("inf"), FINITE)],
    "learning_rate": [(0.0, "0.000000000001"), (True, "number"), ("inf", FINITE)],
    "weight_decay": [(-1e-9, "0"), ("nan", FINITE)], "slice_mm": [(0, "0.1"), ("own", "number")],
    "schedule": [("step", "'constant' or 'cosine'")], "augmentation": [("most", "'paper' or 'strong'")],
    "precision": [("float16", PRECISIONS), (True, PRECISIONS)], "cohort": [(" ", "phantoms"), (3, "string")],
    "seeds": [([], "1 item"), ([2**63], str(2**63 - 1)), ([0, True], "integer"), (["0"], "integer"),
              (0, "list")], "cohort_seed": [(-1, "0"), (False, "integer")],
    "profile": [("..", "a name for folders"), ("a/b", "a name for folders"), (3, "string")],
}


FAR_OFF = {name: [-1, 10**7, [1.5]] for name in (
    "cases", "test_cases", "scan_matrix", "target_mm", "depth", "size", "slice_mm", "margin_mm", "epochs",
    "learning_rate", "samples_per_case", "weight_decay", "clip_norm", "warmup_steps", "other_seeds")} | {
        "cohort_seed": [2**63, [1.5]], "test_seed": [2**63], "voxel_mm": [-1, 11],
        "optimizer": ["", "AdamW"], "networks": ["", 3], "learning_rates": ["", [3]],
        "scan_slices": [[36, 10**5]], "seeds": [[-1]],
        "width_divisor": [-1, 33], "schedule": ["", 1], "augmentation": ["Strong", ""], "cohort": [""],
        "profile": ["", "../../up", "a\\b"]}
"""Further values that no setting may have, whatever is said of them."""


def test_a_wrong_value_is_refused_with_its_rule_and_those_on_the_edge_are_taken():
    assert set(WRONG) == set(SMOKE)
    ruled = [(name, *case) for name, cases in WRONG.items() for case in cases]
    for name, value, rule in [*ruled, *((key, value, "") for key in FAR_OFF for value in FAR_OFF[key])]:
        refused(lambda name=name, value=value: from_mapping(SMOKE | {name: value}, "here"),
                f"here: parameter {name!r} must", rule, f"; got {value!r}")
    edges = SMOKE | dict(cases=1, test_cases=1, depth=16, size=16, voxel_mm=None, scan_matrix=32, epochs=1,
                         scan_slices=[16, 16], margin_mm=0, weight_decay=0, slice_mm=None, clip_norm=1e-6,
                         cohort="Daten ä/骶", seeds=[2**63 - 1], other_seeds=1, networks=[],
                         learning_rates=[["+DA", 1e-3]])
    for values in (edges, edges | dict(depth=None, size=None, voxel_mm=0.5, networks=["MAG-UNet"])):
        assert from_mapping(values, "here").as_dict() == values
    with pytest.raises(AttributeError):
        load("smoke").epochs = 3
    for text, number in (("1e-4", 1e-4), ("1E-4", 1e-4), ("2", 2.0), (2, 2.0), (0.5, 0.5)):
        rate = from_mapping(SMOKE | {"learning_rate": text}, "here").learning_rate
        assert rate == number and type(rate) is float, text


# Notebooks --------------------------------------------------------------------------------------------
CELL = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in SMOKE.items())

SHORT_CELL = "# Parameters\nprofile: str = 'smoke'  # a file in papermill_params"


def run_notebook(*cells, namespace=None):
    """The globals of a notebook after these cells. As IPython: a cell goes into the history first, then it
    is executed; an error stays in its cell."""
    namespace = namespace or {"In": [""]}
    for cell in cells:
        namespace["In"].append(cell)
        try:
            exec(cell, namespace)
        except SyntaxError:
            continue
    return namespace


def test_a_parameters_cell_names_a_profile_or_gives_all_settings_and_papermill_changes_some():
    other_cells = "import math", "answer = 42", "epoch = 9\n# Parameters"
    for cell in (CELL, SHORT_CELL):
        assert from_notebook(run_notebook(cell, *other_cells)) == load("smoke")
    papermills = "# Parameters\nprofile = \"cpu\"\nepochs: int = 9\nseeds = [1, 2]\n"
    changed = replace(load("cpu"), epochs=9, seeds=(1, 2))
    assert from_notebook(run_notebook(SHORT_CELL, papermills)) == changed
    # all of them, so that no file of that name is asked for: papermill -f with a file from anywhere
    assert from_notebook(run_notebook(SHORT_CELL, CELL.replace("'smoke'", "'mine'"))) == replace(
        load("smoke"), profile="mine")
    refused(lambda: from_notebook(run_notebook(SHORT_CELL, "# Parameters\nprofile = 'mine'")),
            "mine.yaml: no such settings")


def test_where_no_history_is_kept_as_by_nbval_the_names_are_taken():
    assert from_notebook({"In": [""], "profile": "smoke", "epochs": 9}).epochs == 9


def test_a_wrong_parameter_stops_the_notebook_until_it_is_corrected():
    for cells, words in (
            ((CELL, "# Parameters\nepoch = 9"), "parameter 'epoch'; did you mean 'epochs'?"),
            ((CELL, "# Parameters\nepochs, epoch = 9, 9"), "parameter 'epoch'; did you mean 'epochs'?"),
            ((CELL, "# Parameters\nepochs = 'many'"), "'epochs' must be a valid integer"),
            ((SHORT_CELL, "# Parameters\ndepth = 32"), "'depth' and 'size' must be numbers, or both")):
        namespace = run_notebook(*cells)
        refused(lambda namespace=namespace: from_notebook(namespace), "notebook parameters", words)
        assert "epoch" not in namespace
        run_notebook("# Parameters\nepochs = 9\ndepth = None", namespace=namespace)
        assert from_notebook(namespace).epochs == 9, words
    refused(lambda: from_notebook({"In": [], "epochs": 9}), "names no profile", 'profile: str = "smoke"')
    namespace = run_notebook(CELL, "# Parameters\nepochs = = 9", "# Parameters\nepochs = 9")
    assert from_notebook(namespace).epochs == 9


# Provenance -------------------------------------------------------------------------------------------
def test_a_whole_file_replaces_the_old_one_and_an_interrupted_one_leaves_it(tmp_path):
    path = tmp_path / "new" / "Ordner ä" / "result.json"
    for old, error in itertools.product((None, "ä", ["new"]), (RuntimeError, KeyboardInterrupt)):
        if old:
            provenance.write_json(path, old)
        with pytest.raises(error), provenance.whole_file(path) as part:
            assert part.parent == path.parent and part != path and part.suffix == ".json"
            part.write_text("half")
            raise error
        assert [provenance.read_json(p) for p in path.parent.iterdir()] == ([old] if old else []), error


def test_what_a_killed_process_left_of_a_file_goes_and_what_others_write_stays(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with provenance.whole_file(tmp_path / "a.txt") as part:
        before, after = part.name.split(str(os.getpid()))
        part.write_text("")
    names = [f"{before}{ended.pid}{after}", f"{before}{os.getppid()}{after}",
             f".part-othermachine-{ended.pid}{after}"]
    for name in names:
        (tmp_path / name).write_text("half")
    provenance.write_json(tmp_path / "b.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.json", *names}
    provenance.write_json(tmp_path / "a.txt", {})
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.json", *names[1:]}


def test_hashes_are_those_of_contents_and_bytes(tmp_path):
    contents = [(), (1,), (1.5,), ("1",), ("",), (None,), (True,), (1, 2), ([1, 2],), ({"a": 1},),
                ({"a": 2},), ({"b": 1},)]
    hashes = [provenance.content_hash(*content) for content in contents]
    assert len(set(hashes)) == len(contents) and {len(h) for h in hashes} == {10}
    assert provenance.content_hash({"a": 1, "b": 2}) == provenance.content_hash({"b": 2, "a": 1})
    (tmp_path / "abc").write_bytes(b"abc")
    assert provenance.file_hash(tmp_path / "abc") == (      # FIPS 180-2's own example
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_the_hash_of_code_is_of_what_it_computes_in_all_modules_in_order(tmp_path):
    code = "def double(x):\n    return 2 * x\n\n\nclass Box:\n    size = 3\n"
    same = ("# a comment\ndef double(\n        x):\n    'Twice.'\n    return 2*x  # fast\n"
            "class Box:\n    size = 3\n    'Sides.'\n")
    changes = (("2 * x", "3 * x"), ("2 * x", "x * 2"), ("2 * x", "2.0 * x"), ("size = 3", "size = 4"),
               ("double", "twice"), ("(x)", "(x, y=0)"), ("class Box:", "@frozen\nclass Box:"))
    hashes = []
    for number, text in enumerate((code, same, *(code.replace(*change) for change in changes))):
        (tmp_path / f"{number}.py").write_text(text)
        hashes.append(provenance.code_hash(SimpleNamespace(__file__=tmp_path / f"{number}.py")))
    assert hashes[0] == hashes[1] and len(set(hashes)) == len(changes) + 1
    orders = ((paper,), (profiles,), (paper, profiles), (profiles, paper))
    assert len({provenance.code_hash(*modules) for modules in orders}) == 4
