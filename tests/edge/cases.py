"""The lists that the edge is judged by, as Markdown: every recorded case, and what each attacker can and cannot do.

    python -m tests.edge.cases

Both come from what the tests themselves hold: the recordings, the table of differences in tests/test_axon.py, and the
table of SECURITY.md, whose tests tests/test_security_md.py looks for.
"""

from __future__ import annotations

import re
import sys

from miner.cli import ROOT
from tests.test_axon import BTAUTH, DIFFERS, OTHER_VALUES, SAME, STOCK

AGREE = "test_axon.py::test_every_answer_agrees_with_the_stock_axons_or_the_table_says_why"
RELEASE_11 = "test_axon.py::test_release_11s_requests_are_answered"


def golden() -> list[str]:
    """One row per answer recorded from the stock axon, and per request recorded from release 11."""
    rows = [
        f"Recorded from a stock {STOCK['bittensor']} axon: {len(STOCK['cases'])} cases, each `{AGREE}[case]`.",
        "",
        "| case | stock | ours | why |",
        "|---|---|---|---|",
    ]
    for name, case in STOCK["cases"].items():
        status = case["response"]["status"]
        stock, ours, why = DIFFERS.get(name, (status, status, OTHER_VALUES.get(name, SAME)))
        rows.append(f"| {name} | {stock} | {ours} | {why} |")
    rows += ["", f"Signed by bittensor {BTAUTH['bittensor']} (`btauth/1`): `{RELEASE_11}[case]`.", ""]
    return rows + [f"- {name}: 200, and 401 when it comes again" for name in BTAUTH["cases"]]


def attackers() -> list[str]:
    """One row per claim of SECURITY.md that names a test."""
    rows = ["| attacker | cannot | shown by |", "|---|---|---|"]
    who = ""
    for line in (ROOT / "SECURITY.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or "`test_" not in line:
            continue
        named = cells[0].strip("*")
        who = named or who
        rows += [f"| {who} | {cells[2]} | {test} |" for test in re.findall(r"`test_\w+\.py::test_\w+`", cells[3])]
    return rows


if __name__ == "__main__":
    sys.stdout.write("\n".join(["### Recorded cases", "", *golden(), "", "### Attackers", "", *attackers(), ""]))
