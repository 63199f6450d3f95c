"""Settings: one frozen dataclass, read strictly from ``papermill_params/<profile>.yaml``.

A notebook has the same names in its ``parameters`` cell. papermill only warns about a parameter it does
not know; ``from_notebook`` makes it an error.
"""

import ast
import difflib
import types
import typing
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml

from magunet.base import project
from magunet.base.errors import InputError

LARGEST_SEED = 2**63
SMALLEST_SIDE = 16
"""Of the network's input, in voxels: four times halved there is one left."""
RANGES = {
    "cases": (3, 99_999), "cohort_seed": (0, LARGEST_SEED - 1), "scan_matrix": (32, 2048), "scan_slices": (16, 4096),
    "target_mm": (0.1, 15.0), "depth": (SMALLEST_SIDE, 1024), "size": (SMALLEST_SIDE, 2048), "slice_mm": (0.1, 100.0),
    "margin_mm": (0.0, 1000.0), "width_divisor": (1, 32),
    "epochs": (1, 10**6), "samples_per_case": (1, 10**6), "learning_rate": (1e-12, 10.0), "weight_decay": (0.0, 10.0),
    "seeds": (0, LARGEST_SEED - 1)}
"""Smallest and largest value of a setting. Three cases are the fewest to train on and score; within 15 mm both joints'
masks stay apart."""
CHOICES = {"augmentation": ("paper", "strong"), "schedule": ("constant", "cosine"), "precision": ("auto", "float32", "bfloat16")}
PARAMETERS_CELL = "# Parameters"
"""First line of a notebook's parameters cell, and of the cell that papermill inserts after it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a run depends on, apart from the network's name and the seed.

    profile: name of the settings; figures and executed notebooks go to folders of this name.
    cohort: folder in nnU-Net raw layout, or None for the built-in phantoms.
    cases, cohort_seed, scan_matrix, scan_slices: how many phantoms, their first seed, pixels a side,
        fewest and most slices of a scan.
    target_mm: the SIJ mask reaches this far from both bones.
    depth, size: slices and pixels a side of the network's input.
    slice_mm: distance of slices given to the network, or None to keep the scan's own.
    margin_mm: how far training slices reach beyond the target at either end.
    width_divisor: the network's channel widths are the paper's divided by this.
    epochs, samples_per_case: an epoch draws this many windows from each training case, batch size 1.
    augmentation: "paper", or "strong": wider ranges, and contrast, resolution, blur and noise, too.
    learning_rate, weight_decay, schedule: Adam; "constant", or "cosine" down to 0.
    precision: "auto" takes bfloat16 where the processor has it, else float32.
    seeds: one training each.
    """

    profile: str
    cohort: str | None
    cases: int
    cohort_seed: int
    scan_matrix: int
    scan_slices: tuple[int, int]
    target_mm: float
    depth: int
    size: int
    slice_mm: float | None
    margin_mm: float
    width_divisor: int
    epochs: int
    samples_per_case: int
    augmentation: str
    learning_rate: float
    weight_decay: float
    schedule: str
    precision: str
    seeds: tuple[int, ...]

    def __post_init__(self):
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            for one in value if isinstance(value, (tuple, list)) else (value,):
                rule = f"from {low} to {high}" + (", or null" if name == "slice_mm" else "")
                _require(one is None or low <= one <= high, name, value, rule)
        _require(self.scan_slices[0] <= self.scan_slices[1], "scan_slices", self.scan_slices, "a pair, fewest and most")
        _require(len(self.seeds) > 0, "seeds", self.seeds, "at least one")
        for name, choices in CHOICES.items():
            _require(getattr(self, name) in choices, name, getattr(self, name), f"one of {', '.join(map(str, choices))}")
        _require(self.profile.strip(". ") != "" and not set(self.profile) & set("/\\\0"), "profile", repr(self.profile),
                 "a name for folders, without / and \\")
        _require(self.cohort is None or self.cohort.strip() != "", "cohort", repr(self.cohort), "a folder, or null")

    def as_dict(self) -> dict:
        """Plain values that JSON and YAML can hold; ``from_mapping`` reads them back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise InputError(f"setting {name} must be {rule}; got {value}")


def from_mapping(values: Mapping, source: str) -> Settings:
    """Settings from plain values. ``source`` names where they come from in messages.

    Raises InputError for an unknown, missing, mistyped or out-of-range setting.
    """
    known = {f.name for f in fields(Settings)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            raise InputError(f"{source}: unknown parameter {name!r}" + (f"; did you mean {near[0]!r}?" if near else
                                                                              "; papermill_params/smoke.yaml has all there are"))
    if missing := sorted(known - set(values)):
        raise InputError(f"{source}: parameter {missing[0]!r} is missing; copy it from papermill_params/smoke.yaml")
    types_of = typing.get_type_hints(Settings)
    try:
        return Settings(**{name: _typed(source, name, value, types_of[name]) for name, value in values.items()})
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(source) else f"{source}: {text}") from None


def _typed(source: str, name: str, value: object, wanted: type) -> object:
    """``value`` as ``wanted``; whole numbers and numbers written like 1e-4 count as float."""
    if isinstance(wanted, types.UnionType):
        return None if value is None else _typed(source, name, value, typing.get_args(wanted)[0])
    if typing.get_origin(wanted) is tuple:
        inner = typing.get_args(wanted)
        if isinstance(value, (list, tuple)) and (inner[-1] is Ellipsis or len(value) == len(inner)):
            return tuple(_typed(source, name, v, inner[0]) for v in value)
    elif wanted is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)             # YAML reads 1e-4 as text
        except (ValueError, OverflowError):
            pass
    elif isinstance(value, wanted) and not isinstance(value, bool):
        return value
    described = wanted.__name__
    if typing.get_origin(wanted) is tuple:
        described = "a list of whole numbers" if typing.get_args(wanted)[-1] is Ellipsis else "a pair of whole numbers"
    raise InputError(f"{source}: parameter {name!r} must be {described}; got {value!r}")


def load(profile: str) -> Settings:
    """The settings of a profile: the name of a file in ``papermill_params``, or a path to a YAML file.

    Raises InputError when there is no such file or it is not right.
    """
    folder = project.root() / project.MARKER if not profile.endswith((".yaml", ".yml")) else None
    path = Path(profile) if folder is None else folder / f"{profile}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml")) if folder else []
        raise InputError(f"{path}: no such settings" + (f"; there are {', '.join(known)}" if known else ""))
    try:
        text = path.read_text(encoding="utf-8")
        flat = _is_flat(text)
        names, values = (yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)) if flat else (None, None)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())}); write it as "
                         "papermill_params/smoke.yaml is") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold one 'name: value' a line, the value at most a list")
    given = [key.value for key, _ in names.value]
    if twice := next((name for name in given if given.count(name) > 1), None):
        raise InputError(f"{path}: parameter {twice!r} is given twice; remove one")
    settings = from_mapping(values, str(path))
    _require(settings.profile == path.stem, f"profile in {path}", settings.profile, f"{path.stem!r}, the file's name")
    return settings


def _is_flat(text: str) -> bool:
    """Whether YAML holds at most lists in a mapping, and no value by reference: ten lines of those can tell of billions."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > 2 or isinstance(event, yaml.AliasEvent):
            return False
    return True


def from_notebook(namespace: MutableMapping) -> Settings:
    """The settings in a notebook's ``parameters`` cell: pass ``globals()``.

    Looks at every executed cell that starts with "# Parameters": the notebook's own and the one papermill
    adds. A name assigned there that is no setting stops the notebook with InputError; it is also deleted,
    so that the corrected cell can be run again.
    """
    assigned = {name for cell in namespace["In"] if cell.startswith(PARAMETERS_CELL) for name in _assigned(cell)}
    known = {f.name for f in fields(Settings)}
    values = {name: namespace[name] for name in assigned | known if name in namespace}
    for name in assigned - known:
        namespace.pop(name, None)
    return from_mapping(values, "notebook parameters")


def _assigned(cell: str) -> set[str]:
    """Names that a cell sets; none for one that Python could not read, which did not run."""
    try:
        nodes = list(ast.walk(ast.parse(cell)))
    except SyntaxError:
        return set()
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
