"""The folders of runs."""

from concurrent.futures import ThreadPoolExecutor

from dydiff.run.folders import claim_version


def test_runs_that_start_together_do_not_share_a_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: claim_version(tmp_path / "run"), range(40)))
    assert sorted(versions) == list(range(40))
