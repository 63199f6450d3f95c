"""The verdict on each of ``compendium.audit.claims``, computed from the paper's numbers, the networks and, where there are
some, the scores of trained networks. Every judge returns the verdict and one line that says what was found.
"""

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from scipy.stats import t as student_t

from compendium import paper
from compendium.audit import additivity, consistency, footprint
from compendium.audit.claims import CLAIMS, ERRATA, Verdict
from compendium.audit.rankings import Finding, Scores, beats, synergy
from compendium.audit.units import kernels_of
from magunet.base import project
from magunet.base.provenance import git_revision, whole_file
from magunet.blocks import CAM, PAM
from magunet.model import MAGUNetConfig, count_parameters
from magunet.studies import build_on_meta

HOLDS, FAILS, CONTRADICTS, UNTESTABLE = Verdict.HOLDS, Verdict.FAILS, Verdict.CONTRADICTS, Verdict.UNTESTABLE
MFF_KERNELS = kernels_of("[1,3,5]")


def _row(table: tuple[paper.Row, ...], name: str) -> paper.Row:
    return next(row for row in table if row.name == name)


def _here(holds: bool, text: str) -> Finding:
    return HOLDS if holds else FAILS, text


def _own(holds: bool, text: str) -> Finding:
    return HOLDS if holds else CONTRADICTS, text


def _grid() -> Finding:
    shapes = {name: (before, after) for name, before, after in footprint.trace()}
    there, back = shapes["down 4"][1], shapes["decoder 1"][1]
    depths = "-".join(str(shapes[f"decoder {n}"][1][1]) for n in (4, 3, 2, 1))
    return _here(there == paper.BOTTLENECK and back[1:] == paper.INPUT_SIZE,
                 f"back over depths {there[1]}-{depths}, padded at {len(footprint.padded_levels())} of 4 steps; the bottleneck "
                 f"then makes {shapes['encoder 5'][1][0]} channels")


def _light_mff() -> Finding:
    base, ours = footprint.flops("3D U-Net")[""], footprint.flops("+MFF")[""]
    dearest = max(paper.TABLE_4[1:4], key=lambda row: row.params_mi).name
    return _here(ours <= base, f"{ours / base:.1f} times the operations of the 3D U-Net; {dearest} is also the module with "
                               "most parameters in Table 4")


def _shared() -> Finding:
    counted = footprint.flops("+MFF")
    saved = counted["down.0.shared"] * (len(MFF_KERNELS) - 1)
    return _here(saved > 0, f"{saved / 1e9:.0f} GFLOP, {100 * saved / (counted['down.0'] + saved):.0f} % of an MFF that "
                            "does not share")


def _global_kernel() -> Finding:
    reach, side = 3 + max(MFF_KERNELS) - 1, paper.INPUT_SIZE[1]
    return _here(reach >= side, f"with the shared convolution it sees {reach} of {side} voxels a side")


def _light_cam() -> Finding:
    cam, pam = (footprint.flops("MAG-UNet")[f"attention.{name}"] / 1e9 for name in ("cam", "pam"))
    width = MAGUNetConfig().widths[-1]
    return _here(cam < pam, f"CAM {cam:.1f} GFLOP and {count_parameters(CAM())} parameter, PAM {pam:.1f} GFLOP and "
                            f"{count_parameters(PAM(width)):,}")


def _light_gate() -> Finding:
    usual, _, ours, whole = footprint.gate_costs()["GFLOP"]
    least = footprint.gate_costs()["weights"].iloc[0] / paper.MI
    table = _row(paper.TABLE_4, "+LGAG").params_mi - _row(paper.TABLE_4, "base").params_mi
    return _here(ours < usual, f"in 16 groups {ours / usual:.1f} times the usual gate's operations, 1/{whole / ours:.0f} of "
                               f"those without groups; Table 4 gives LGAG {table:.2f} Mi weights, usual gates have {least:.2f}")


def _scans() -> Finding:
    low, high = (n * paper.CASES for n in paper.SLICES_PER_SCAN)
    return _own(low <= paper.SLICES_IN_ALL <= high,
                f"those would be {low:,} to {high:,}; the mean is {paper.SLICES_IN_ALL / paper.CASES:.1f} a scan")


def _test_set() -> Finding:
    left = paper.CASES - paper.TRAIN_CASES - paper.VAL_CASES
    return _own(left >= paper.SHOWN_TEST_CASES, f"training and validation leave {left} of {paper.CASES} cases")


def _augmentation() -> Finding:
    parts = {"affine": ("rotation", "scaling", "translation")}
    one, other = ({p for name in names for p in parts.get(name, (name,))} for names in paper.AUGMENTATIONS.values())
    return _own(one == other, f"in one of two lists only: {', '.join(sorted(one ^ other)) or 'nothing'}")


def _memory() -> Finding:
    needed, card = sum(footprint.training_bytes("MAG-UNet")) / 2**30, paper.GPU_BYTES / 2**30
    return _here(needed < card, f"at least {needed:.1f} of {card:.0f} GiB in 32 bits; work space comes on top")


def _loss() -> Finding:
    undecided = math.log(2) * math.prod(paper.INPUT_SIZE)
    swamps = undecided > 100                                # a hundred times the most that Eq. 15 can be
    return _here(not swamps, f"where all answers are one half, Eq. 16 is {undecided:,.0f} and Eq. 15 at most 1; as a "
                             f"mean it is {math.log(2):.2f}")


def _headline() -> Finding:
    values = {q.value for q in paper.QUOTES if (q.network, q.measure, q.over) == ("MAG-UNet", "dice", None)}
    return _own(len(values) == 1, " and ".join(f"{v}" for v in sorted(values)))


def _gain(measure: str) -> Finding:
    quotes = consistency.quote_audit()
    quotes = quotes[quotes["number"] == f"{measure} of MAG-UNet over 3D U-Net"]
    base, ours = (getattr(_row(paper.TABLE_1, name), measure) for name in ("3D U-Net", "MAG-UNet"))
    return _own((quotes["agrees"] != "none").all(),
                f"{ours - base:.1f} points in Table 1, which is {100 * (ours - base) / base:.1f} % of {base}")


def _quotes() -> Finding:
    table = consistency.quote_audit().query("place == 'Sec. 2.5'")
    good = (table["agrees"] != "none").sum()
    return _own(good == len(table), f"{good} of {len(table)} numbers agree")


def _possible() -> Finding:
    table = consistency.score_audit()
    bad = table[~table["possible"]]
    rows = ", ".join(f"{row} (Table {number})" for number, row in zip(bad["table"], bad["row"]))
    return _own(bad.empty, f"no cases whatever have the means of {len(bad)} of {len(table)} rows: {rows}")


def _clearly() -> Finding:
    ranked = sorted((row.dice for row in paper.TABLE_1), reverse=True)
    lead, n = ranked[0] - ranked[1], paper.VAL_CASES
    return UNTESTABLE, (f"{lead:.1f} Dice, no spread given; for a paired t-test on {n} cases the differences would have to "
                        f"have an SD below {lead * math.sqrt(n) / student_t.ppf(0.975, n - 1):.1f}")


def _complete() -> Finding:
    ours = _row(paper.TABLE_1, "MAG-UNet").recall
    higher = [f"{row.name} {row.recall}" for row in paper.TABLE_1 if row.recall > ours]
    return _own(not higher, f"recall {ours}; higher: {', '.join(higher) or 'none'}")


def _lighter() -> Finding:
    listed = {row.name: row.params_mi for row in paper.TABLE_1}
    absent = [name for name in paper.SAID_HEAVIER if name not in listed]
    given = ", ".join(f"{name} {listed[name]}" for name in (*paper.SAID_HEAVIER, "MAG-UNet") if name in listed)
    return _own(not absent and all(listed[n] > listed["MAG-UNet"] for n in paper.SAID_HEAVIER),
                f"{given}; in no table: {', '.join(absent) or 'none'}")


def _count() -> Finding:
    ours, said = count_parameters(build_on_meta("MAG-UNet")), _row(paper.TABLE_1, "MAG-UNet").params_mi
    return _here(said in (round(ours / 1e6, 2), round(ours / paper.MI, 2)),
                 f"{ours:,} = {ours / paper.MI:.2f} x 2^20 = {ours / 1e6:.2f} x 10^6 under the reading taken")


def _attention() -> Finding:
    base, *others = paper.TABLE_2
    worse = [f"{row.name} {row.dice - base.dice:+.1f}" for row in others if row.dice < base.dice]
    return _own(not worse, f"Dice rises in {len(others) - len(worse)} of {len(others)}; falls: {', '.join(worse) or 'none'}")


def _sum_of_parts(design: pd.DataFrame, values: pd.Series) -> Finding:
    most, needed = len(additivity.largest_sums(design, values)[0]), additivity.needed_rounding(design, values)[0]
    return _own(most == len(values), f"at most {most} of {len(values)} rows can be sums of the same parts; all of them only "
                                     f"with errors of {needed:.3f}")


def _multi_scale() -> Finding:
    single = max((row for row in paper.TABLE_3 if len(kernels_of(row.name)) == 1), key=lambda row: row.iou)
    several = [row for row in paper.TABLE_3 if len(set(kernels_of(row.name))) > 1]
    below = [row.name for row in several if row.iou < single.iou]
    return _own(not below, f"{single.name} has a higher IoU than {len(below)} of {len(several)}: {', '.join(below)}")


def _kernel_count() -> Finding:
    ranked = [row.name for row in sorted(paper.TABLE_3, key=lambda row: row.params_mi)]
    place = 1 + ranked.index("[1,3,5]")
    return _own(place == 1, f"counted from the fewest parameters it is number {place} of {len(ranked)}")


def _rivals(table: tuple[paper.Row, ...], but: str) -> tuple[str, ...]:
    return tuple(row.network for row in table if row.network != but)


PAPER_JUDGES: dict[str, Callable[[], Finding]] = {
    "grid": _grid, "light_mff": _light_mff, "shared": _shared, "global_kernel": _global_kernel, "light_cam": _light_cam,
    "light_gate": _light_gate, "scans": _scans, "test_set": _test_set, "augmentation": _augmentation, "memory": _memory,
    "loss": _loss, "headline": _headline, "quotes": _quotes, "possible": _possible, "clearly": _clearly,
    "complete": _complete, "lighter": _lighter, "count": _count, "attention": _attention, "multi_scale": _multi_scale,
    "kernel_count": _kernel_count,
    "iou_gain": lambda: _gain("iou"),
    "dice_gain": lambda: _gain("dice"),
    "table_3": lambda: _sum_of_parts(*additivity.table_3()),
    "table_4": lambda: _sum_of_parts(*additivity.table_4()),
    "pictures": lambda: (UNTESTABLE, "no numbers are given; neither scans nor masks can be had"),
    "lesions": lambda: (UNTESTABLE, "no score of lesions is given: the masks are of joints"),
}
"""Claim.key -> its judge, for claims that the paper's numbers or untrained networks decide, or nothing can."""

DIP = ("dice", "iou", "precision")
STUDY_JUDGES: dict[str, Callable[[Scores], Finding]] = {
    "best": lambda scores: beats(scores, ("MAG-UNet",), _rivals(paper.TABLE_1, "MAG-UNet"), DIP),
    "eca": lambda scores: beats(scores, ("3D U-Net",), ("+ECA",), DIP),
    "da": lambda scores: beats(scores, ("+DA",), _rivals(paper.TABLE_2, "+DA"), DIP),
    "kernel_iou": lambda scores: beats(scores, ("[1,3,5]",), _rivals(paper.TABLE_3, "[1,3,5]"), ("iou",)),
    "modules": lambda scores: beats(scores, ("+DA", "+MFF", "+LGAG"), ("3D U-Net",), ("dice", "iou")),
    "synergy": synergy,
}
"""Claim.key -> its judge, for claims about trained networks."""


def judged(scores: Scores = None) -> pd.DataFrame:
    """One line a claim: place, claim, verdict, found, shown. For ``scores`` see ``compendium.audit.rankings``."""
    found = [STUDY_JUDGES[c.key](scores) if c.key in STUDY_JUDGES else PAPER_JUDGES[c.key]() for c in CLAIMS]
    return pd.DataFrame([{"place": claim.place, "claim": claim.says, "verdict": str(verdict), "found": text,
                          "shown": claim.shown} for claim, (verdict, text) in zip(CLAIMS, found)],
                        index=pd.RangeIndex(1, len(CLAIMS) + 1))


def errata() -> pd.DataFrame:
    """One line an erratum: place, printed, read as, why, shown."""
    return pd.DataFrame([{"place": e.place, "printed": e.printed, "read as": e.reading, "why": e.why, "shown": e.shown}
                         for e in ERRATA], index=pd.RangeIndex(1, len(ERRATA) + 1))


def link(heading: str, notebook: str = "") -> str:
    """A Markdown link to a heading of a notebook, the same one if none is named, as JupyterLab and nbconvert name them."""
    return f"[{heading}]({notebook}#{heading.replace(' ', '-')})"


def as_markdown(table: pd.DataFrame, notebook: str = "") -> str:
    """The table in Markdown; its last column, ``shown``, as links into a notebook, or the same one."""
    rows = [[number, *cells[:-1], link(cells[-1], notebook)] for number, *cells in table.itertuples()]
    lines = [["", *table.columns], ["---"] * (1 + len(table.columns)), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def save_claims(table: pd.DataFrame, path: Path, source: str) -> None:
    """Write the table of `judged` beside a profile's figures, with what the verdicts rest on."""
    said = (f"{source}, git {git_revision(project.root())}. Links lead to notebook 11, which shows what was found. Of trained "
            "networks, higher means better here, however little; the tables have the intervals.")
    with whole_file(path) as part:
        part.write_text(f"# The paper's claims\n\n{said}\n\n{as_markdown(table, '../../notebooks/11_paper_audit.ipynb')}\n")
