# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The clusters that the fault tests rely on: every fault strikes, heals, and leaves nothing."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
from servers import clusters

import multiboard
from tests.waiting import eventually

#: The stores of several servers; those of one are tested beside it.
NAMES = sorted(set(clusters.CLUSTERS) - {"redis", "sqlite"})


@pytest.fixture(scope="module", params=NAMES)
def cluster(request: pytest.FixtureRequest) -> Iterator[clusters.Cluster]:
    with clusters.running(clusters.cluster(request.param)) as running:
        yield running


def test_a_cluster_is_in_step_and_found_by_its_url(cluster: clusters.Cluster) -> None:
    assert len(cluster.members) >= 3
    eventually(cluster.in_step)
    with multiboard.backend("b", cluster.url) as board:
        assert board.post("a").name == "a"


def test_every_fault_strikes_and_heals(cluster: clusters.Cluster) -> None:
    faults = cluster.faults()
    assert any("killed" in name for name in faults)
    for strike in faults.values():
        strike()
        try:
            assert not cluster.in_step()
        finally:
            cluster.heal()
        eventually(cluster.in_step)
        assert all(member.running for member in cluster.members)


@pytest.mark.parametrize("name", NAMES)
def test_a_closed_cluster_leaves_nothing(name: str) -> None:
    cluster = clusters.cluster(name)
    with clusters.running(cluster):
        folders = [pathlib.Path(member.folder) for member in cluster.members]
        cluster.members[0].pause()  # a frozen one is ended too
    assert not any(member.running for member in cluster.members)
    assert not any(folder.exists() for folder in folders)


def test_a_killed_leader_is_succeeded() -> None:
    ensemble = clusters.ZooKeeperEnsemble()
    with clusters.running(ensemble):
        leader = ensemble.leader()
        ensemble.faults()["leader killed"]()
        assert not leader.running
        assert eventually(ensemble.leader) is not leader


def test_a_parted_leader_is_succeeded_and_agrees_with_nobody() -> None:
    question = {"key": "YQ=="}  # that most of the members have to agree to
    cluster = clusters.EtcdCluster()
    with clusters.running(cluster):
        parted = cluster.leader()
        cluster.faults()["leader partitioned"]()
        # The parted one holds itself for the leader until nobody answered it for a while.
        eventually(lambda: cluster.leader() is not parted)
        leader = cluster.leader()
        assert "header" in leader.ask("POST", "/v3/kv/range", question)
        with pytest.raises(TimeoutError):
            parted.ask("POST", "/v3/kv/range", question)
        cluster.heal()
        # It asks its new leader again only when the old one did not answer for some seconds.
        answer = eventually(
            lambda: parted.ask("POST", "/v3/kv/range", question), 30.0, ignoring=(OSError,)
        )
        assert "header" in answer


@pytest.mark.parametrize("name", sorted(clusters.CLUSTERS))
def test_a_cluster_has_its_name(name: str) -> None:
    cluster = clusters.cluster(name)
    assert (cluster.name, cluster.url.partition("://")[0]) == (name, name)
    cluster.close()


def test_an_unknown_cluster_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="zookeeper"):
        clusters.cluster("mongodb")
