"""Settings: one frozen dataclass, read strictly from ``papermill_params/*.yaml`` or a notebook."""

import ast
import contextlib
import difflib
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from magunet.base import project
from magunet.base.errors import InputError

LARGEST_SEED = 2**63 - 1
"""Of trainings and phantoms."""
SMALLEST_SIDE = 16
"""Of the network's input, in voxels: after four halvings one voxel is left."""
PARAMETERS_CELL = "# Parameters"
"""First line of a notebook's parameters cell, and of the cell that papermill inserts after it."""


def within(low: float, high: float, meaning: str) -> Any:
    """The smallest and the largest value of a setting, and what it means."""
    return Field(ge=low, le=high, description=meaning)


def from_text(value: object) -> object:
    """The number that a text holds, since YAML reads 1e-4 as text; anything else unchanged."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def ascending(pair: tuple[int, ...]) -> tuple[int, ...]:
    """The pair itself. Raises ValueError when it is in descending order."""
    if list(pair) != sorted(pair):
        raise ValueError("must be a pair, fewest and most")
    return pair


Number = Annotated[float, BeforeValidator(from_text)]
Slices = Annotated[tuple[Annotated[int, within(16, 4096, "")], ...], AfterValidator(ascending)]
Seed = Annotated[int, within(0, LARGEST_SEED, "of the first phantom; the others follow")]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class Settings:
    """Everything a run depends on, apart from the network's name and the seed."""

    profile: Annotated[str, Field(pattern=r"^[^/\\\x00]*[^/\\\x00. ][^/\\\x00]*$",
                                  description="a name for folders, without / and \\")]
    cohort: Annotated[str | None, Field(pattern=r"\S", description="nnU-Net raw folder; null: phantoms")]
    cases: Annotated[int, within(3, 99_999, "phantoms; 3 are the fewest to train on and score")]
    cohort_seed: Seed
    scan_matrix: Annotated[int, within(32, 2048, "pixels a side of a phantom's slices")]
    scan_slices: Annotated[Slices, Field(strict=False, min_length=2, max_length=2,
                                         description="fewest and most slices of a phantom")]
    target_mm: Annotated[Number, within(0.1, 15, "the SIJ mask reaches this far from both bones")]
    depth: Annotated[int, within(SMALLEST_SIDE, 1024, "slices of the network's input")]
    size: Annotated[int, within(SMALLEST_SIDE, 2048, "pixels a side of the network's input")]
    slice_mm: Annotated[Number | None, within(0.1, 100, "distance of slices; null: as in the scan")]
    margin_mm: Annotated[Number, within(0, 1000, "training slices reach this far beyond the target")]
    width_divisor: Annotated[int, within(1, 32, "the paper's channel widths are divided by this")]
    epochs: Annotated[int, within(1, 10**6, "passes over the training cases")]
    samples_per_case: Annotated[int, within(1, 10**6, "windows of each case in an epoch; batch size 1")]
    augmentation: Annotated[Literal["paper", "strong"], Field(description="of training windows")]
    learning_rate: Annotated[Number, within(1e-12, 10, "of Adam")]
    weight_decay: Annotated[Number, within(0, 10, "of Adam")]
    schedule: Annotated[Literal["constant", "cosine"], Field(description="of the learning rate")]
    precision: Annotated[Literal["auto", "float32", "bfloat16"],
                         Field(description="auto: bfloat16 where the processor has it, else float32")]
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1, description="one training each")]

    def as_dict(self) -> dict:
        """Plain values that JSON and YAML can hold; ``from_mapping`` reads them back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


NAMES = [field.name for field in fields(Settings)]
"""Of all settings, in the order of the files."""


def from_mapping(values: Mapping, source: str) -> Settings:
    """Settings from plain values; ``source`` names in messages where they come from.

    Raises InputError for an unknown, missing, mistyped or out-of-range setting.
    """
    template = "papermill_params/smoke.yaml"
    if unknown := [str(name) for name in values if name not in NAMES]:
        near = difflib.get_close_matches(unknown[0], NAMES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"{template} has all there are"
        raise InputError(f"{source}: unknown parameter {unknown[0]!r}; {hint}")
    if missing := [name for name in NAMES if name not in values]:
        raise InputError(f"{source}: parameter {missing[0]!r} is missing; copy it from {template}")
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name, rule = first["loc"][0], first["msg"].replace("tuple", "list")
        rule = re.sub(r"^(\w+ should|Value error, must)", "must", rule)
        meaning = Settings.__pydantic_fields__[name].description
        raise InputError(f"{source}: parameter {name!r} {rule}; got {values[name]!r} ({meaning})") from None


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
        tree = yaml.compose(text, yaml.SafeLoader)
        flat = isinstance(tree, yaml.MappingNode) and all(
            isinstance(item, yaml.ScalarNode) for _, value in tree.value
            for item in (value.value if isinstance(value, yaml.SequenceNode) else [value]))
        values = yaml.safe_load(text) if flat else None     # short text can stand for billions of values
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())}); write it as "
                         "papermill_params/smoke.yaml is") from error
    if values is None:
        raise InputError(f"{path}: must hold one 'name: value' a line, the value at most a list")
    names = [key.value for key, _ in tree.value]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{path}: parameter {twice!r} is given twice; remove one")
    settings = from_mapping(values, str(path))
    if settings.profile != path.stem:
        raise InputError(f"{path}: profile must be {path.stem!r}, the file's name; got {settings.profile!r}")
    return settings


def from_notebook(namespace: MutableMapping) -> Settings:
    """The settings in a notebook's ``parameters`` cells, its own and papermill's: pass ``globals()``.

    A name assigned there that is no setting raises InputError, where papermill only warns. It is deleted,
    too, so that the corrected cell can be run again.
    """
    assigned = set()
    for cell in namespace["In"]:
        with contextlib.suppress(SyntaxError):              # such a cell did not run
            if cell.startswith(PARAMETERS_CELL):
                assigned |= {node.id for node in ast.walk(ast.parse(cell))
                             if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    values = {name: namespace[name] for name in [*NAMES, *assigned] if name in namespace}
    for name in assigned - set(NAMES):
        namespace.pop(name, None)
    return from_mapping(values, "notebook parameters")
