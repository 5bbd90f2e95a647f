# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Workers on stores whose servers are killed and frozen: nothing is lost, nothing is done twice."""

from __future__ import annotations

import pytest
from servers import clusters
from servers.clusters import File

from tests.faults.run import Result, Run

#: One seed for all runs of the test: ``make soak`` takes another one each time.
SEED = "1"


def _run(cluster: clusters.Cluster, seconds: float) -> Result:
    with clusters.running(cluster):
        return Run(cluster, SEED, say=print).run(seconds)


@pytest.mark.full
@pytest.mark.timeout(360)
@pytest.mark.parametrize("name", clusters.CLUSTERS)
def test_nothing_is_lost_and_nothing_is_done_twice(name: str) -> None:
    cluster = clusters.cluster(name)
    result = _run(cluster, 60.0 if len(cluster.members) > 1 else 25.0)
    assert result.failures == [], result.table
    assert {struck.fault for struck in result.struck} >= set(cluster.faults())
    assert result.posted > 50
    # What the fault did was felt by somebody, or it was none.
    assert len(cluster.members) < 2 or max(result.outages.values()) > 0.1


class _Lying(File):
    """A file that is used through a backend that lies."""

    def __init__(self, mutant: str) -> None:
        super().__init__()
        self._mutant = mutant

    @property
    def url(self) -> str:
        return f"tests.faults.lying_backends:{self._mutant}?path={self._folder.name}/board.db"


@pytest.mark.full
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("mutant", "words"),
    [
        ("Forgetful", "is lost: it was posted, and nobody removed it"),
        ("Trusting", "had effect after a higher token"),
        ("Blind", "did not see it"),
    ],
)
def test_a_backend_that_lies_is_found_out(mutant: str, words: str) -> None:
    result = _run(_Lying(mutant), 10.0)
    assert any(words in sentence for sentence in result.failures), result.failures
