# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The prototypes on RQ and on tooz: each posts, claims and consumes on a real server."""

from __future__ import annotations

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROTOTYPES = ROOT / "examples" / "prototypes"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "conformance", PROTOTYPES))),
}
#: A worker's day, on two boards of one place.
PROGRAM = """
import sys
from multiboard_conformance.jobboard import fetch
from taskflow import exceptions as excp

maker = fetch.make(sys.argv[1], {"url": sys.argv[2]})
place = fetch.new_place()
board, other = maker.fetch(place), maker.fetch(place)
for each in (board, other):
    each.connect()
job = board.post("a", details={"k": [1, "x"]}, priority="HIGH")
(its,) = other.iterjobs(ensure_fresh=True)
print(its == job, its.name, its.details, its.priority.name, its.state, other.find_owner(its))
other.claim(its, "worker")
print(job.state, board.find_owner(job), [j.name for j in board.iterjobs(only_unclaimed=True)])
try:
    board.claim(job, "worker")
except excp.UnclaimableJob:
    print("unclaimable")
other.abandon(its, "worker")
print(job.state)
board.claim(job, "me")
board.consume(job, "me")
print(its.state, other.job_count)
lost = other.post("b")
other.claim(lost, "worker")
other.trash(lost, "worker")
print(lost.state, board.job_count)
maker.sweep(place)
for each in (board, other):
    each.close()
print(board.connected)
"""
DAY = """\
True a {'k': [1, 'x']} HIGH UNCLAIMED None
CLAIMED worker []
unclaimable
UNCLAIMED
COMPLETE 0
COMPLETE 0
False
"""


@pytest.mark.parametrize(
    ("kind", "store"),
    [
        ("rq_board.judged:RQMaker", "redis"),
        ("tooz_board.judged:ToozMaker", "redis"),
        ("tooz_board.judged:ToozMaker", "zookeeper"),
        ("tooz_board.judged:ToozMaker", "etcd"),
    ],
)
def test_prototype_posts_claims_and_consumes(
    kind: str, store: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{store}_url")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, kind, url],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.stdout == DAY, done.stderr


@pytest.mark.parametrize("name", ["rq_board", "tooz_board"])
def test_prototype_is_made_of_public_names_and_nothing_of_ours(name: str) -> None:
    sources = (PROTOTYPES / name).glob("*.py")
    text = "\n".join(path.read_text() for path in sources if path.name != "judged.py")
    assert "from multiboard" not in text
    assert "import multiboard" not in text
    tree = ast.parse(text.replace("from __future__ import annotations", ""))
    private = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }
    assert private == set()
