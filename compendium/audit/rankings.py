"""Claims that compare trained networks: "each of these beats each of those".

``scores`` is a table of means with the columns network, dice, iou, precision and recall, in percent; None where
nothing has been trained. Networks have the names of the paper's tables or of ``magunet.studies``.
"""

from collections.abc import Iterable

import pandas as pd

from compendium import paper
from compendium.audit.claims import Verdict
from compendium.overview import scored_runs
from compendium.scores import MEASURES, read_scores
from magunet.base.profiles import Settings
from magunet.studies import ALIASES

Scores = pd.DataFrame | None
Finding = tuple[Verdict, str]
LEAST_CASES = 5
"""With fewer validation cases a mean ranks nothing."""


def paper_scores() -> pd.DataFrame:
    """The paper's own tables in the form of ``scores``; where two disagree, the first that has the number."""
    rows = [{"network": ALIASES.get(r.network, r.network), **{m: getattr(r, m) for m in MEASURES}}
            for table in paper.TABLES for r in table]
    return pd.DataFrame(rows).groupby("network", sort=False).first().reset_index()


def run_scores(settings: Settings) -> Scores:
    """`means` of the profile's finished and scored runs; None without any."""
    runs = scored_runs(settings)
    return means(pd.concat([read_scores(run) for run in runs])) if runs else None


def means(scores: pd.DataFrame) -> Scores:
    """Means over cases and seeds of scores by case; None where the cases are few."""
    if scores["case"].nunique() < LEAST_CASES:
        return None
    return (100 * scores.groupby("network", sort=False)[list(MEASURES)].mean()).reset_index()


def _by_network(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.assign(network=[ALIASES.get(n, n) for n in scores["network"]]).set_index("network")


def leads(scores: pd.DataFrame, better: Iterable[str], worse: Iterable[str], measures: Iterable[str]) -> dict[str, float]:
    """Every lead that the claim needs, in points, named like "dice of +DA over +SE"."""
    table = _by_network(scores)
    pairs = [(ALIASES.get(b, b), ALIASES.get(w, w)) for b in better for w in worse]
    return {f"{m} of {b} over {w}": float(table.loc[b, m] - table.loc[w, m]) for b, w in pairs for m in measures}


def unscored(scores: Scores, networks: Iterable[str], measures: Iterable[str]) -> list[str]:
    """Networks that have no mean of one of the measures."""
    known = set() if scores is None else set(_by_network(scores).dropna(subset=list(measures)).index)
    return [n for n in networks if ALIASES.get(n, n) not in known]


def beats(scores: Scores, better: Iterable[str], worse: Iterable[str], measures: Iterable[str]) -> Finding:
    """HOLDS where all leads are above 0, else FAILS; PENDING while a network has no scores."""
    own = leads(paper_scores(), better, worse, measures)
    said = f"in the paper's tables {sum(v > 0 for v in own.values())} of {len(own)} comparisons say so"
    if missing := unscored(scores, (*better, *worse), measures):
        more = f" and {len(missing) - 2} more" if missing[2:] else ""
        return Verdict.PENDING, f"{said}; no scores of {', '.join(missing[:2])}{more}"
    ours = leads(scores, better, worse, measures)
    name = min(ours, key=ours.get)
    return Verdict.HOLDS if ours[name] > 0 else Verdict.FAILS, f"least lead {ours[name]:+.1f}: {name}; {said}"


PARTS = ("+DA", "+MFF", "+LGAG")


def beyond_the_sum(scores: pd.DataFrame, measure: str, parts: Iterable[str] = PARTS, whole: str = "MAG-UNet") -> float:
    """By how much the gain of the whole over the 3D U-Net exceeds the gains of its parts together, in points."""
    gains = list(leads(scores, (*parts, whole), ("3D U-Net",), (measure,)).values())
    return gains[-1] - sum(gains[:-1])


def synergy(scores: Scores) -> Finding:
    """Whether the three modules together gain more than one by one, in Dice and IoU."""
    table = paper_scores()
    pairs = [beyond_the_sum(table, "iou", ("+DA", other), f"+DA{other}") for other in ("+MFF", "+LGAG")]
    said = (f"in Table 4 all three gain {beyond_the_sum(table, 'iou'):+.1f} IoU beyond their sum, the two pairs "
            + " and ".join(f"{v:+.1f}" for v in pairs))
    if unscored(scores, (*PARTS, "MAG-UNet", "3D U-Net"), ("dice", "iou")):
        return Verdict.PENDING, f"{said}; no scores yet"
    extra = {m: beyond_the_sum(scores, m) for m in ("dice", "iou")}
    text = ", ".join(f"{m} {v:+.1f}" for m, v in extra.items())
    return Verdict.HOLDS if min(extra.values()) > 0 else Verdict.FAILS, f"beyond the sum: {text}; {said}"
