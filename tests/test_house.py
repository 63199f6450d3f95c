"""The house: three packages whose imports run one way, small files, plain names, a docstring a constant."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RANK = {"magunet": 0, "sijphantom": 1, "compendium": 2}
"""A package may import those of a lower rank."""
LONGEST_FILE, LONGEST_LINE = 250, 110
LIMITS = {"magunet": 3400, "core": 2400, "sijphantom": 1900, "compendium": 4000, "all": 9299}
"""Lines; ``core`` is magunet without peers and base."""
PLAIN_TORCH = {"blocks": {"base"}, "attention": {"blocks"}, "model": {"blocks", "attention"}}
"""The networks' files, and what else of magunet each may import."""
PARTICIPLES = {"found", "made", "said", "given", "shown", "kept", "held", "drawn", "seen", "written",
               "wanted", "counted",
               "measured"}
"""What no variable may be called."""

FILES = {path: path.read_text(encoding="utf-8")
         for package in RANK for path in sorted((ROOT / package).rglob("*.py"))}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(text) for path, text in FILES.items()}


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


def test_no_import_runs_backwards():
    backwards = [f"{name} -> {other}" for name, others in ARROWS.items() for other in others
                 if RANK[other.split(".")[0]] > RANK[name.split(".")[0]]]
    assert not backwards


def circle(arrows):
    """Modules that import each other in a circle; none where there is no circle."""
    unknown, path, done = set(arrows), [], set()

    def visit(name):
        if name in path:
            return [*path[path.index(name):], name]
        if name in done or name not in arrows:
            return []
        path.append(name)
        for other in sorted(arrows[name]):
            if ring := visit(other):
                return ring
        done.add(path.pop())
        return []

    return next((ring for name in sorted(unknown) if (ring := visit(name))), [])


def test_no_circle():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert circle(ARROWS) == []


def test_every_import_names_a_module():
    assert not [f"{name} -> {other}" for name, others in ARROWS.items()
                for other in others if other not in MODULES]


def test_files_are_small():
    long = {str(path.relative_to(ROOT)): n for path, text in FILES.items()
            if (n := len(text.splitlines())) > LONGEST_FILE}
    assert not long


def test_packages_are_small():
    lines = dict.fromkeys(LIMITS, 0)
    for path, text in FILES.items():
        package, *rest = path.relative_to(ROOT).parts
        count = len(text.splitlines())
        lines[package] += count
        lines["all"] += count
        if package == "magunet" and rest[0] not in ("peers", "base"):
            lines["core"] += count
    assert all(lines[part] <= most for part, most in LIMITS.items()), lines


def test_lines_are_short():
    long = [f"{path.relative_to(ROOT)}:{i}" for path, text in FILES.items()
            for i, line in enumerate(text.splitlines(), 1) if len(line) > LONGEST_LINE]
    assert not long


@pytest.mark.parametrize("module", PLAIN_TORCH)
def test_the_networks_are_plain_torch(module):
    own = {name.removeprefix("magunet.").split(".")[0] for name in ARROWS[f"magunet.{module}"]}
    assert own <= PLAIN_TORCH[module]


def test_variables_are_nouns():
    names = [f"{module}:{node.lineno} {node.id}" for module, tree in MODULES.items()
             for node in ast.walk(tree)
             if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in PARTICIPLES]
    arguments = [f"{module}:{node.lineno} {node.arg}" for module, tree in MODULES.items()
                 for node in ast.walk(tree)
                 if isinstance(node, ast.arg) and node.arg in PARTICIPLES]
    assert not names + arguments


def test_a_docstring_a_constant():
    bare = []
    for module, tree in MODULES.items():
        for node, after in zip(tree.body, [*tree.body[1:], None]):
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(node, ast.Assign | ast.AnnAssign):
                names = [part.id for part in getattr(target, "elts", [target]) if isinstance(part, ast.Name)]
                constants = [name for name in names if re.fullmatch(r"[A-Z][A-Z0-9_]*", name)]
                text = isinstance(after, ast.Expr) and isinstance(getattr(after.value, "value", None), str)
                if constants and (len(constants) > 1 or not text):
                    bare.append(f"{module}:{node.lineno} {', '.join(constants)}")
    assert not bare
