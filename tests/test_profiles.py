"""Settings are read strictly, wherever they come from; hashes change with what matters; files are whole."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import pydantic
import pytest
import yaml
from conftest import refused

from compendium import paper
from magunet.base import profiles, project, provenance
from magunet.base.profiles import Settings, from_mapping, from_notebook, load

FOLDER = project.root() / "papermill_params"
PROFILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def smoke(**changes):
    return yaml.safe_load((FOLDER / "smoke.yaml").read_text()) | changes


# Profiles ---------------------------------------------------------------------------------------------

def test_the_profiles_are_there():
    assert PROFILES == ["cpu", "gpu", "paper", "smoke", "transfer", "weights"]


def test_every_profile_loads_under_its_own_name_and_survives_json_and_yaml():
    for name in PROFILES:
        settings = load(name)
        assert settings.profile == name and settings.cohort is None
        assert settings == load(str(FOLDER / f"{name}.yaml"))
        for there_and_back in (lambda d: json.loads(json.dumps(d)),
                               lambda d: yaml.safe_load(yaml.safe_dump(d))):
            assert from_mapping(there_and_back(settings.as_dict()), "test") == settings


def test_the_paper_profile_is_the_papers():
    settings = load("paper")
    assert (settings.depth, settings.size, settings.size) == paper.INPUT_SIZE
    assert (settings.epochs, settings.learning_rate, settings.weight_decay) == (
        300, 1e-4, 1e-4)        # Sec. 2.1.3
    assert settings.cases == paper.CASES and settings.scan_slices == paper.SLICES
    assert settings.scan_matrix == 512
    assert settings.width_divisor == 1 and settings.slice_mm is None and settings.schedule == "constant"
    assert settings.augmentation == "paper"
    # windows of batch size 1
    assert settings.samples_per_case * paper.TRAIN_CASES * settings.epochs == 49 * 300


def test_a_profile_may_lie_anywhere(tmp_path):
    (tmp_path / "mein Profil ä.yml").write_text(yaml.safe_dump(smoke(profile="mein Profil ä", epochs=7)))
    settings = load(str(tmp_path / "mein Profil ä.yml"))
    assert settings.profile == "mein Profil ä" and settings.epochs == 7


def test_a_profile_has_its_files_name_so_that_folders_agree(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(smoke(profile="other")))
    refused(lambda: load(str(tmp_path / "mine.yaml")),
            "mine.yaml: profile must be 'mine', the file's name; got 'other'")


def test_profiles_are_found_from_a_folder_below(compendium, monkeypatch):
    (compendium / "notebooks").mkdir()
    monkeypatch.chdir(compendium / "notebooks")
    (compendium / "papermill_params/mine.yaml").write_text(yaml.safe_dump(smoke(profile="mine")))
    assert load("mine").profile == "mine"


def test_an_unknown_profile_lists_the_known_ones(compendium):
    refused(lambda: load("papr"), "papr.yaml", "no such settings", "cpu, gpu, paper, smoke")
    refused(lambda: load("elsewhere/mine.yaml"), "elsewhere/mine.yaml", "no such settings")


@pytest.mark.parametrize("text, words", [
    ("profile: [smoke", ["not valid YAML"]),
    ("profile: smoke\n\tcases: 3", ["not valid YAML"]),
    ("", ["name: value"]), ("- 1\n- 2", ["name: value"]), ("smoke", ["name: value"]),
    ("epochs: 3\nepochs: 4", ["'epochs' is given twice"]),
    ("epochs: 3", ["is missing", "smoke.yaml"]),
])
def test_a_broken_profile_is_named(tmp_path, text, words):
    (tmp_path / "broken.yaml").write_text(text)
    refused(lambda: load(str(tmp_path / "broken.yaml")), "broken.yaml", *words)


def test_a_profile_that_is_no_text_is_named(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    refused(lambda: load(str(tmp_path / "binary.yaml")), "binary.yaml", "not valid YAML")


# Values -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("wrong, meant",
                         [("learning_rte", "learning_rate"), ("epoch", "epochs"), ("seed", "seeds")])
def test_an_unknown_name_gets_the_nearest_one_and_its_file(tmp_path, wrong, meant):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(smoke(**{wrong: 1})))
    refused(lambda: load(str(tmp_path / "mine.yaml")), "mine.yaml", f"{wrong!r}", f"did you mean {meant!r}?")


def test_a_name_like_no_other_is_unknown_without_a_guess():
    refused(lambda: from_mapping(smoke(xyzzy=1), "here"), "here: unknown parameter 'xyzzy'")
    refused(lambda: from_mapping(smoke() | {3: 1}, "here"), "here: unknown parameter '3'")


def test_every_setting_must_be_there_and_says_what_it_means():
    for name, field in Settings.__pydantic_fields__.items():
        values = smoke()
        del values[name]
        refused(lambda values=values: from_mapping(values, "here"), "here", f"{name!r} is missing",
                "smoke.yaml")
        refused(lambda name=name: from_mapping(smoke(**{name: {}}), "here"), f"{name!r} must be",
                field.description)


WRONG_TYPES = {
    "integer": [("epochs", value) for value in (True, 2.0, "2", None, [2])]
               + [("scan_slices", [16, 20.5]), ("seeds", [0, True]), ("seeds", ["0"]),
                  ("cohort_seed", False)],
    "number": [("learning_rate", value) for value in (True, "fast", None, [0.1])]
    + [("slice_mm", False), ("slice_mm", "own")],
    "string": [("profile", 3), ("profile", None), ("cohort", 3)],
    "list": [("scan_slices", 16), ("scan_slices", "16"), ("seeds", 0)],
    "'auto', 'float32' or 'bfloat16'": [("precision", "float16"), ("precision", True),
                                        ("precision", ["auto"])],
    "finite number": [(name, value)
                      for name in ("target_mm", "slice_mm", "margin_mm", "learning_rate", "weight_decay")
                      for value in (float("inf"), float("nan"), "inf", "nan")],
}


@pytest.mark.parametrize("kind", WRONG_TYPES)
def test_a_value_of_the_wrong_type_is_refused(kind):
    for name, value in WRONG_TYPES[kind]:
        refused(lambda name=name, value=value: from_mapping(smoke(**{name: value}), "here"),
                f"here: parameter {name!r} must be", kind, "; got")


def test_a_value_out_of_range_is_refused_with_its_rule():
    for name, value, rule in [
            ("cases", 2, "3"), ("depth", 15, "16"), ("size", 2049, "2048"), ("scan_matrix", 31, "32"),
            ("scan_slices", [15, 20], "16"),
            ("scan_slices", [30, 20], "a pair, fewest and most"), ("scan_slices", [16], "2 items"),
            ("scan_slices", [16, 20, 24], "2 items"), ("epochs", 0, "1"), ("samples_per_case", 0, "1"),
            ("width_divisor", 0, "1"), ("target_mm", -1.0, "0.1"), ("learning_rate", 0.0, "0.000000000001"),
            ("margin_mm", -0.1, "0"),
            ("weight_decay", -1e-9, "0"), ("slice_mm", 0, "0.1"),
            ("schedule", "step", "'constant' or 'cosine'"),
            ("augmentation", "most", "'paper' or 'strong'"), ("seeds", [], "1 item"),
            ("seeds", [2**63], str(2**63 - 1)),
            ("profile", "..", "a name for folders"), ("profile", "a/b", "a name for folders"),
            ("cohort", " ", "phantoms")]:
        refused(lambda name=name, value=value: from_mapping(smoke(**{name: value}), "here"),
                f"here: parameter {name!r} must", rule, f"; got {value!r}")


def test_values_on_the_edge_are_taken():
    edges = dict(cases=3, depth=16, size=16, scan_matrix=32, epochs=1, scan_slices=[16, 16], margin_mm=0,
                 weight_decay=0,
                 slice_mm=None, cohort="Daten ä/骶", seeds=[7, 2**63 - 1])
    assert from_mapping(smoke(**edges), "here").as_dict() == smoke(**edges)


def test_numbers_may_be_written_as_yaml_does_not_read_them():
    for text, number in [("1e-4", 1e-4), ("1E-4", 1e-4), ("2", 2.0), (2, 2.0), (0.5, 0.5)]:
        rate = from_mapping(smoke(learning_rate=text), "here").learning_rate
        assert rate == number and type(rate) is float


def test_1e_4_is_a_number_in_a_file(tmp_path):
    text = (FOLDER / "smoke.yaml").read_text().replace("profile: smoke", "profile: mine")
    text = text.replace("learning_rate: 0.003", "learning_rate: 1e-4")
    assert isinstance(yaml.safe_load(text)["learning_rate"], str)
    (tmp_path / "mine.yaml").write_text(text)
    assert load(str(tmp_path / "mine.yaml")).learning_rate == 1e-4


def test_settings_cannot_be_changed_and_a_changed_copy_is_checked():
    with pytest.raises(AttributeError):
        load("smoke").epochs = 3
    with pytest.raises(pydantic.ValidationError, match="less than or equal to 2048"):
        replace(load("smoke"), size=4096)


# Notebooks --------------------------------------------------------------------------------------------

CELL = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in smoke().items())


def run_notebook(*cells):
    """The globals of a notebook after these cells."""
    namespace = {"In": [""]}
    for cell in cells:
        run_cell(namespace, cell)
    return namespace


def run_cell(namespace, cell):
    """As IPython: into the history first, then executed; an error stays in its cell."""
    namespace["In"].append(cell)
    try:
        exec(cell, namespace)
    except SyntaxError:
        return


def test_a_parameters_cell_gives_the_settings():
    assert from_notebook(run_notebook("import math", CELL, "answer = 42")) == load("smoke")


def test_the_cell_that_papermill_adds_overrides():
    settings = from_notebook(run_notebook(CELL,
                                          "# Parameters\nprofile = \"mine\"\nepochs = 9\nseeds = [1, 2]\n"))
    assert (settings.profile, settings.epochs, settings.seeds, settings.cases) == ("mine", 9, (1, 2), 6)


def test_annotated_parameters_count():
    settings = from_notebook(run_notebook(CELL, "# Parameters\nepochs: int = 9"))
    assert settings.epochs == 9


def test_a_misspelt_parameter_stops_the_notebook_until_corrected():
    namespace = run_notebook(CELL, "# Parameters\nepoch = 9")
    refused(lambda: from_notebook(namespace), "notebook parameters", "'epoch'", "did you mean 'epochs'?")
    assert "epoch" not in namespace
    run_cell(namespace, "# Parameters\nepochs = 9")
    assert from_notebook(namespace).epochs == 9


def test_a_parameters_cell_with_a_syntax_error_can_be_corrected():
    namespace = run_notebook(CELL, "# Parameters\nepochs = = 9")
    run_cell(namespace, "# Parameters\nepochs = 9")
    assert from_notebook(namespace).epochs == 9


def test_a_misspelt_name_among_several_is_found():
    refused(lambda: from_notebook(run_notebook(CELL, "# Parameters\nepochs, epoch = 9, 9")), "'epoch'")


def test_names_of_other_cells_do_not_matter():
    assert from_notebook(run_notebook(CELL, "epoch = 9\n# Parameters")) == load("smoke")


def test_a_missing_parameter_and_a_wrong_value_stop_the_notebook():
    refused(lambda: from_notebook(run_notebook(CELL.replace("epochs = ", "# epochs = "))),
            "'epochs' is missing")
    refused(lambda: from_notebook(run_notebook(CELL, "# Parameters\nepochs = 'many'")),
            "'epochs' must be a valid integer")


# Provenance -------------------------------------------------------------------------------------------

def test_a_whole_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "new" / "Ordner ä" / "result.txt"
    for text in ("first", "second"):
        with provenance.whole_file(path) as part:
            part.write_text(text)
            assert part.parent == path.parent and part != path and part.suffix == ".txt"
        assert path.read_text() == text and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, "old"])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, error, old):
    path = tmp_path / "result.txt"
    if old:
        path.write_text(old)
    with pytest.raises(error), provenance.whole_file(path) as part:
        part.write_text("half")
        raise error
    assert [p.read_text() for p in tmp_path.iterdir()] == ([old] if old else [])


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


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    provenance.write_json(tmp_path / "a.json", {"b": [1, 2], "a": "ä"})
    with pytest.raises(TypeError):
        provenance.write_json(tmp_path / "a.json", {"a": object()})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": "ä", "b": [1, 2]}


def test_content_hash_differs_for_different_content():
    contents = [(), (1,), (1.5,), ("1",), ("",), (None,), (True,), (1, 2), ([1, 2],), ({"a": 1},),
                ({"a": 2},),
                ({"b": 1},)]
    hashes = [provenance.content_hash(*content) for content in contents]
    assert len(set(hashes)) == len(contents)
    assert all(len(h) == 10 for h in hashes)
    assert provenance.content_hash({"a": 1, "b": 2}) == provenance.content_hash({"b": 2, "a": 1})


def test_file_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert provenance.file_hash(tmp_path / "abc") == (      # FIPS 180-2's own example
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


CODE = 'def double(x):\n    return 2 * x\n\n\nclass Box:\n    size = 3\n'
SAME = '# a comment\ndef double(\n        x):\n    return 2*x  # fast\nclass Box:\n    size = 3\n'


def code_hash_of(folder, source):
    path = folder / f"module_{len(list(folder.iterdir()))}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    return provenance.code_hash(importlib.util.module_from_spec(spec))


def test_comments_and_layout_do_not_change_the_hash_of_code(tmp_path):
    assert code_hash_of(tmp_path, CODE) == code_hash_of(tmp_path, SAME)


@pytest.mark.parametrize("old, new", [
    ("2 * x", "3 * x"), ("2 * x", "x * 2"), ("2 * x", "2.0 * x"), ("size = 3", "size = 4"),
    ("double", "twice"),
    ("(x)", "(x, y=0)"), ("class Box:", "@frozen\nclass Box:")])
def test_code_changes_the_hash_of_code(tmp_path, old, new):
    assert old in CODE and code_hash_of(tmp_path, CODE) != code_hash_of(tmp_path, CODE.replace(old, new))


def test_the_hash_of_code_is_of_all_modules_in_order():
    hashes = {provenance.code_hash(*m) for m in ((paper,), (profiles,), (paper, profiles), (profiles, paper))}
    assert len(hashes) == 4
