"""Settings: one frozen dataclass, read strictly from ``papermill_params/*.yaml`` or a notebook."""

import ast
import contextlib
import difflib
import json
import re
import reprlib
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict, ValidationError
from pydantic.dataclasses import dataclass

from magunet.base import project
from magunet.base.errors import InputError, require

BOX_MM = (120.0, 120.0, 176.0)
"""Height, depth and width of the region of interest, which cuts no joint (benchmarks/region.py)."""
SMALLEST_SIDE = 16
"""Of the network's input, in voxels: after four halvings one voxel is left."""


def setting(meaning: str, low: float | None = None, high: float | None = None, **rules: Any) -> Any:
    """What a setting means, its smallest and its largest value, and pydantic's further rules for it."""
    return Field(description=meaning, ge=low, le=high, **rules)


def box_shape(voxel: float, margin: float = 0) -> tuple[int, int, int]:
    """Voxels of the region of interest (d, h, w), with ``margin`` mm on every side."""
    return tuple(round((side + 2 * margin) / voxel) for side in BOX_MM)


def from_text(value: object) -> object:
    """The number that a text holds, since YAML reads 1e-4 as text; anything else unchanged."""
    with contextlib.suppress(ValueError):
        return float(value) if isinstance(value, str) else value
    return value


def ascending(pair: tuple[int, ...]) -> tuple[int, ...]:
    """The pair itself. Raises ValueError when it is in descending order."""
    if list(pair) != sorted(pair):
        raise ValueError("must be a pair, fewest and most")
    return pair


Number = Annotated[float, BeforeValidator(from_text)]
Rate = Annotated[Number, Field(ge=1e-12, le=10)]
Slices = Annotated[tuple[Annotated[int, Field(ge=16, le=4096)], ...], AfterValidator(ascending)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class Settings:
    """Everything a run depends on, apart from the network's name and the seed."""

    profile: str = setting("a name for folders, without / and \\",
                           pattern=r"^[^/\\\x00]*[^/\\\x00. ][^/\\\x00]*$")
    cohort: str | None = setting("nnU-Net raw folder; null: phantoms", pattern=r"\S")
    cases: int = setting("phantoms to train on", 1, 99_999)
    cohort_seed: Seed = setting("of the first phantom to train on; the others follow")
    test_cases: int = setting("phantoms that are scored, balanced by grade", 1, 99_999)
    test_seed: Seed = setting("of the first phantom that is scored; the others follow")
    scan_matrix: int = setting("pixels a side of a phantom's slices", 32, 2048)
    scan_slices: Slices = setting("slices of a phantom", strict=False, min_length=2, max_length=2)
    target_mm: Number = setting("the SIJ mask reaches this far from both bones", 0.1, 15)
    voxel_mm: Number | None = setting("isotropic voxels; null: planes", 0.5, 10)
    depth: int | None = setting("slices of a window; null: the region of interest", SMALLEST_SIDE, 1024)
    size: int | None = setting("pixels a side of a window; null: the region of interest", SMALLEST_SIDE, 2048)
    slice_mm: Number | None = setting("distance of planes; null: as in the scan", 0.1, 100)
    margin_mm: Number = setting("how far training slices reach beyond the target, or boxes move", 0, 1000)
    width_divisor: int = setting("the paper's channel widths are divided by this", 1, 32)
    epochs: int = setting("passes over the training cases", 1, 10**6)
    samples_per_case: int = setting("windows of each case in an epoch; batch size 1", 1, 10**6)
    augmentation: Literal["paper", "strong"] = setting("of training windows")
    optimizer: Literal["adam", "adamw"] = setting("adam: L2 in the gradient; adamw: decay of kernels alone")
    learning_rate: Rate = setting("of the optimizer")
    learning_rates: tuple[Annotated[tuple[str, Rate], Strict(False)], ...] = setting(
        "pairs of a network and the rate that it takes instead", strict=False)
    weight_decay: Number = setting("of the optimizer", 0, 10)
    schedule: Literal["constant", "cosine"] = setting("of the learning rate")
    warmup_steps: int = setting("in which the learning rate rises to the schedule's", 0, 10**6)
    clip_norm: Number | None = setting("largest norm of all gradients; null: any", 1e-6, 1e6)
    precision: Literal["auto", "float32", "bfloat16"] = setting("auto: bfloat16 where the processor has it")
    seeds: tuple[Seed, ...] = setting("one training each", strict=False, min_length=1)
    other_seeds: int | None = setting("of them for networks outside Table 4; null: all", 1, 10**6)
    networks: tuple[str, ...] | None = setting("that are compared; null: the tables' rows", strict=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the network's input (d, h, w): of the region of interest, or of a window."""
        return (self.depth, self.size, self.size) if self.depth else box_shape(self.voxel_mm)

    def as_dict(self) -> dict:
        """Plain values that JSON and YAML can hold; ``from_mapping`` reads them back."""
        return json.loads(json.dumps(asdict(self)))

    def rate_of(self, network: str) -> float:
        """The learning rate of a network, named as in `magunet.studies.NETWORKS`."""
        return dict(self.learning_rates).get(network, self.learning_rate)


FIELDS = Settings.__pydantic_fields__
"""Name -> type, rules and meaning of every setting, in the order of the files."""


def from_mapping(values: Mapping, source: str) -> Settings:
    """Settings from plain values of a ``source``; InputError for unknown, missing and wrong ones."""
    template = "papermill_params/smoke.yaml"
    if unknown := [str(name) for name in values if name not in FIELDS]:
        near = difflib.get_close_matches(unknown[0], FIELDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"{template} has all there are"
        raise InputError(f"{source}: unknown parameter {unknown[0]!r}; {hint}")
    if missing := [name for name in FIELDS if name not in values]:
        raise InputError(f"{source}: parameter {missing[0]!r} is missing; copy it from {template}")
    try:
        settings = Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name, rule = first["loc"][0], first["msg"].replace("tuple", "list")
        rule = re.sub(r"^(\w+ should|Value error, must)", "must", rule)
        raise InputError(f"{source}: parameter {name!r} {rule}; got {reprlib.repr(values[name])} "
                         f"({FIELDS[name].description})") from None
    window = settings.depth, settings.size
    require(None not in window or (window == (None, None) and settings.voxel_mm), f"{source}: parameters "
            "'depth' and 'size' must be numbers, or both null with 'voxel_mm', which is the region of "
            f"interest; got {window[0]} and {window[1]}")
    return settings


def load(profile: str) -> Settings:
    """The settings of a file in ``papermill_params``, by name, or of any YAML file; InputError if bad."""
    folder = project.root() / project.MARKER
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else folder / f"{profile}.yaml"
    require(path.is_file(), f"{path}: no such settings; {folder.name} has "
            + ", ".join(sorted(known.stem for known in folder.glob("*.yaml"))))
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not valid YAML ({reason}); write it as smoke.yaml is") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold one 'name: value' a line, the value at most a list")
    names = [key.value for key, _ in yaml.compose(text).value]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{path}: parameter {twice!r} is given twice; remove one")
    settings = from_mapping(values, str(path))
    if settings.profile != path.stem:
        raise InputError(f"{path}: profile must be {path.stem!r}, the file's name; got {settings.profile!r}")
    return settings


def from_notebook(namespace: MutableMapping) -> Settings:
    """The settings of a notebook's profile, and what its ``parameters`` cells change: pass ``globals()``.

    Those cells are its own and papermill's. A name that is no setting raises InputError, and is deleted so
    that the corrected cell can be run again.
    """
    assigned = {}
    for cell in namespace["In"]:
        with contextlib.suppress(SyntaxError):              # such a cell did not run
            nodes = ast.walk(ast.parse(cell)) if cell.startswith("# Parameters") else []
            assigned |= {node.id: namespace[node.id] for node in nodes if isinstance(node, ast.Name)
                         and isinstance(node.ctx, ast.Store) and node.id in namespace}
    for name in assigned.keys() - FIELDS.keys():
        namespace.pop(name)
    assigned = assigned or {name: namespace[name] for name in FIELDS if name in namespace}     # by nbval
    if FIELDS.keys() - assigned.keys():
        require("profile" in assigned,
                "the parameters cell names no profile; add a line such as 'profile: str = \"smoke\"'")
        assigned = load(str(assigned["profile"])).as_dict() | assigned
    return from_mapping(assigned, "notebook parameters")
