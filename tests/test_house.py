"""The house: three packages whose imports run one way, small files, plain names, a docstring a constant."""

import ast
import re
import tomllib
from collections import Counter

from conftest import ROOT

RANK = {"magunet": 0, "sijphantom": 1, "compendium": 2}
"""A package may import those of a lower rank."""
LONGEST_FILE = 250
LIMITS = {"magunet": 4337, "core": 2989, "sijphantom": 1692, "compendium": 4451, "all": 10480, "tests": 13622}
"""Lines; ``core`` is magunet without peers and base. Reading clinical files without a silent wrong answer
took some 600, regions of interest, the recipe and diagnostics some 300, GPUs 50, networks of one's own,
paired differences and folders of changed settings 120, the first mask in two steps 45; before, the limits
were 3,400, 2,400, 1,900, 4,000, 9,299 and, of tests, 11,000."""
PLAIN_TORCH = {"blocks": {"base"}, "attention": {"blocks"}, "model": {"blocks", "attention"}}
"""The networks' files, and what else of magunet each may import."""
PARTICIPLES = {"found", "made", "said", "given", "shown", "kept", "held", "drawn", "seen", "written",
               "wanted", "counted", "measured"}
"""What no variable may be called."""
TEXTS = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"):
         path.read_text(encoding="utf-8") for package in RANK for path in (ROOT / package).rglob("*.py")}
MODULES = {name: ast.parse(text) for name, text in TEXTS.items()}


def imports(tree):
    """Modules of the three packages that a module imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in deeper}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] in RANK}


ARROWS = {name: imports(tree) - {name} for name, tree in MODULES.items()}


def in_circles(arrows):
    """What is left of the modules after those that import nothing else have been taken away, again and again:
    circles, and what leads to them."""
    arrows = {name: set(others) for name, others in arrows.items()}
    while ends := {name for name, others in arrows.items() if not others & arrows.keys()}:
        arrows = {name: others for name, others in arrows.items() if name not in ends}
    return arrows


def test_imports_name_modules_run_neither_backwards_nor_in_a_circle_and_networks_are_plain_torch():
    arrows = [(name, other) for name, others in ARROWS.items() for other in others]
    assert not [arrow for arrow in arrows if arrow[1] not in MODULES]
    assert not [(name, other) for name, other in arrows
                if RANK[other.split(".")[0]] > RANK[name.split(".")[0]]]
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}).keys() == {*"abc"}
    assert not in_circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) and not in_circles(ARROWS)
    for module, others in PLAIN_TORCH.items():
        assert {name.split(".")[1] for name in ARROWS[f"magunet.{module}"]} <= others, module


def test_files_and_packages_are_small():
    counts, sums = {name: len(text.splitlines()) for name, text in TEXTS.items()}, Counter()
    sums["tests"] = sum(len(path.read_text().splitlines()) for path in (ROOT / "tests").glob("*.py"))
    assert not [name for name, count in counts.items() if count > LONGEST_FILE]
    for name, count in counts.items():
        package, *rest = name.split(".")
        sums.update({package: count, "all": count})
        if package == "magunet" and rest[:1] not in (["peers"], ["base"]):
            sums["core"] += count
    assert all(sums[part] <= most for part, most in LIMITS.items()), sums


def by_locale(tree):
    """Lines where text is read or written in the encoding of the user's locale, also that of a subprocess."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            name, words = ast.unparse(call.func).split(".")[-1], {word.arg for word in call.keywords}
            constants = [str(arg.value) for arg in call.args if isinstance(arg, ast.Constant)]
            opened = ast.unparse(call.func) == "open" and not any("b" in mode for mode in constants)
            text = opened or name in ("read_text", "write_text") or words & {"text", "universal_newlines"}
            if text and "encoding" not in words and "utf-8" not in constants:
                yield call.lineno


def test_text_is_utf_8_whatever_the_locale():
    code = 'open("a"), open(p, "rb"), p.read_text(), p.read_text("utf-8")\nrun(c, text=1)\np.write_text("a")'
    assert sorted(by_locale(ast.parse(code))) == [1, 1, 2, 3]
    others = [path for folder in ("workflow", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    trees = MODULES | {path: ast.parse(path.read_text("utf-8")) for path in others}
    assert not [(name, line) for name, tree in trees.items() for line in by_locale(tree)]
    workflow = (ROOT / "workflow" / "Snakefile").read_text("utf-8")
    assert re.findall(r"(?:read|write)_text\(.*?(utf-8)?\"\)", workflow) == ["utf-8"] * 2


def test_variables_are_nouns():
    names = [(module, node.lineno, name) for module, tree in MODULES.items() for node in ast.walk(tree)
             if (name := node.arg if isinstance(node, ast.arg) else
                 node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else "")]
    assert not [name for name in names if name[2] in PARTICIPLES]


def test_a_docstring_a_constant():
    bare = []
    for module, tree in MODULES.items():
        for node, after in zip(tree.body, [*tree.body[1:], None]):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                names = [part.id for part in getattr(target, "elts", [target]) if isinstance(part, ast.Name)]
                constants = [name for name in names if re.fullmatch(r"[A-Z][A-Z0-9_]*", name)]
                text = isinstance(after, ast.Expr) and isinstance(getattr(after.value, "value", None), str)
                bare += [(module, node.lineno, name) for name in constants[text:]]
    assert not bare


def test_each_mistake_to_be_noticed_fits_the_code():
    for mutant in tomllib.loads((ROOT / "tests/mutants.toml").read_text("utf-8"))["mutant"]:
        assert (ROOT / mutant["file"]).read_text("utf-8").count(mutant["old"]) == 1, mutant["fault"]
