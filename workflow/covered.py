"""Prints how much of the code all tests run, by lines and by branches, from ``coverage json``; status 1 below
95 % of either."""

import json
import sys
from pathlib import Path

LEAST = 95

totals = json.loads(Path("runs/quality/coverage.json").read_text())["totals"]
lines = 100 * totals["covered_lines"] / totals["num_statements"]
branches = 100 * totals["covered_branches"] / totals["num_branches"]
print(f"covered: {lines:.1f} % of lines, {branches:.1f} % of branches; at least {LEAST} % of each are wanted")
sys.exit(min(lines, branches) < LEAST)
