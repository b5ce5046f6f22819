"""docs/python.md: its code runs, block after block."""

import re

from conftest import ROOT
from whole_run import fit


def test_the_code_of_the_page_runs(place):
    assert fit("--trainer.max_epochs=1") == 0
    names = {}
    for block in re.findall(r"```python\n(.+?)```", (ROOT / "docs/python.md").read_text(), re.S):
        exec(block, names)
    assert names["made"].act.abs().sum() == 0
    assert names["from_there"].obs.shape == (3, 7, 11) and names["predicted"].shape == (2, 50, 11)
    assert (names["unsure"] > 0).all() and len(names["obs"]) == len(names["act"]) == len(names["terminal"])
