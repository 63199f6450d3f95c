"""The rows of each table, and the networks that a profile trains for them."""

from collections.abc import Collection, Mapping

from compendium.paper import TABLES, Row
from magunet.base import profiles
from magunet.base.errors import InputError, require
from magunet.model import MAGUNetConfig
from magunet.studies import OWN, checked

REFERENCE = "MAG-UNet"
"""The paper's network, with all three modules."""
LEFT_OUT = {4: ("+MFF+LGAG", "+DA placebo", "Wide 3D U-Net")}
"""Rows that the paper's tables lack, by table; shown like its own."""
BEYOND = {1: ("nnU-Net", "MedNeXt", "SegResNet", "SwinUNETR", "TransUNet"),
          2: ("+DA no decay", "+DA open scales", "+DA scaled energies", "+DA one level up")}
"""Networks to take instead, and changes that may wake DA, by table; shown where trained, as by cpu."""


def study_rows(table: int, trained: Collection[str] = ()) -> tuple[Row, ...]:
    """The paper's rows of Table 1, 2, 3 or 4, those it leaves out, ``trained`` ones of BEYOND and one's own.

    Raises InputError for another number.
    """
    require(table in range(1, len(TABLES) + 1), f"the paper has Tables 1 to {len(TABLES)}, no Table {table}")
    more = (*LEFT_OUT.get(table, ()), *(name for name in BEYOND.get(table, ()) if name in trained),
            *(name for name in sorted(trained) if name.startswith(OWN)))
    return *TABLES[table - 1], *(Row(table=table, name=name, network=name) for name in more)


def networks_of(table: int) -> list[str]:
    """Networks of a table's rows and those of BEYOND. Raises as `study_rows` does."""
    return [row.network for row in study_rows(table, BEYOND.get(table, ()))]


def grid(settings: profiles.Settings, beyond: bool | None = None) -> list[str]:
    """The networks that a profile trains, each once. beyond: also BEYOND's; None: cpu and gpu do.

    Raises InputError for a name in the settings that is no row of a table.
    """
    more = BEYOND if (settings.profile in ("cpu", "gpu") if beyond is None else beyond) else {}
    rows = [row for table in range(1, len(TABLES) + 1) for row in study_rows(table, more.get(table, ()))]
    names = settings.networks or [row.network for row in rows]
    return list(dict.fromkeys(checked(name, settings.width_divisor) for name in names))


def seeds_of(network: str | MAGUNetConfig, settings: profiles.Settings) -> tuple[int, ...]:
    """The seeds that a network is trained with: all for those of Table 4, ``other_seeds`` for others."""
    return settings.seeds[:None if checked(network) in networks_of(4) else settings.other_seeds]


def trainings(settings: profiles.Settings, beyond: bool | None = None) -> list[tuple[str, int]]:
    """(Network, seed) in the order in which they are trained: those of Table 4 first, each seed by seed."""
    runs = [(name, seed) for name in grid(settings, beyond) for seed in seeds_of(name, settings)]
    return sorted(runs, key=lambda run: (run[0] not in networks_of(4), settings.seeds.index(run[1])))


def workflow_settings(config: Mapping) -> tuple[profiles.Settings, list[tuple[str, int]]]:
    """The settings of a workflow and its trainings, by Snakemake's ``--config``.

    Raises InputError for a key or a value that means nothing, else a default would be taken in silence.
    """
    name, beyond = config.get("profile", "smoke"), str(config.get("beyond")).lower()
    for key in config.keys() - {"profile", "beyond"}:
        raise InputError(f"--config {key}: there are only profile=NAME and beyond=true")
    require(beyond in ("none", "true", "false"), f"--config beyond={beyond}: must be true or false")
    settings = profiles.load(str(name))
    require(settings.profile == name, f"--config profile={name}: must be a name, without a folder or .yaml")
    return settings, trainings(settings, None if beyond == "none" else beyond == "true")
