# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The conformance command: on all stores, from a folder outside the repository, and on itself."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from multiboard_conformance.backend.fixtures import Store
from multiboard_conformance.backend.guarantees import GUARANTEES
from multiboard_conformance.harness import Harness
from multiboard_conformance.machinery.history import History
from multiboard_conformance.report import SCHEMA, anonymous
from servers import clusters

from multiboard import errors
from multiboard.primitives import NewPosting

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Paths that the command needs where the package is not installed.
PATHS = [ROOT, ROOT / "conformance"]

HARNESSES = {
    "memory": "tests.conformance.short_histories:MemoryHarness",
    "sqlite": "tests.conformance.harnesses:SQLiteHarness",
    "redis": "tests.conformance.harnesses:RedisHarness",
    "zookeeper": "tests.conformance.harnesses:ZooKeeperHarness",
    "etcd": "tests.conformance.harnesses:EtcdHarness",
}


def run(folder: pathlib.Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "multiboard_conformance.main", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS)), **env},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def report(folder: pathlib.Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the command; return its exit status, its report and what it printed."""
    path = folder / "report.json"
    done = run(folder, *arguments, "--report", str(path))
    printed = done.stdout + done.stderr
    assert path.exists(), printed
    return done.returncode, json.loads(path.read_text()), printed


@pytest.mark.timeout(300)
def test_every_store_conforms(store_url: str, tmp_path: pathlib.Path) -> None:
    url = store_url.partition("?")[0]
    harness = HARNESSES.get(url.partition(":")[0])
    extra = [] if harness is None else ["--harness", harness]
    status, judged, printed = report(tmp_path, url, "--quick", *extra)
    assert (status, judged["result"]) == (0, "conformant"), printed
    assert {entry["verdict"] for entry in judged["guarantees"].values()} == {"passed"}


@pytest.mark.full
@pytest.mark.timeout(300)
def test_an_ensemble_conforms(tmp_path: pathlib.Path) -> None:
    with clusters.running(clusters.cluster("zookeeper")) as ensemble:
        status, judged, printed = report(
            tmp_path,
            ensemble.url,
            "--quick",
            "--harness",
            "tests.conformance.harnesses:EnsembleHarness",
        )
    assert (status, judged["result"]) == (0, "conformant"), printed


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("durability", ["none", "wait:1"])
@pytest.mark.parametrize("form", ["redis+sentinel", "redis+cluster"])
def test_redis_among_several_servers_conforms(
    tmp_path: pathlib.Path, form: str, durability: str
) -> None:
    with clusters.running(clusters.cluster(form)) as cluster:
        url = f"{cluster.url}?durability={durability}"
        status, judged, printed = report(
            tmp_path, url, "--quick", "--harness", "tests.conformance.harnesses:RedisRecords"
        )
    assert (status, judged["result"]) == (0, "conformant"), printed
    assert {entry["verdict"] for entry in judged["guarantees"].values()} == {"passed"}


def test_bare_file_store_gets_a_temporary_file(tmp_path: pathlib.Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    # stevedore keeps what it found of entry points in the user's cache.
    places = {"HOME": str(home), "XDG_STATE_HOME": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run(tmp_path, "sqlite://", "--quick", "--only", "DIR-3", **places)
    assert (done.returncode, list(home.rglob("*"))) == (0, []), done.stdout


@pytest.mark.parametrize("target", ["memory", "multiboard.backends.memory:MemoryBackend"])
def test_backend_by_name_and_by_class(tmp_path: pathlib.Path, target: str) -> None:
    assert run(tmp_path, target, "--quick", "--only", "BATCH-1").returncode == 0


def test_nothing_run_is_2(tmp_path: pathlib.Path) -> None:
    done = run(tmp_path, "memory://", "-k", "no_check_has_this_name")
    assert (done.returncode, "nothing run" in done.stdout) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuchbackend://"],
        ["no.such.module:Class"],
        ["redis://127.0.0.1:1"],
        ["memory://", "--harness", "no.such.module:Harness"],
        ["memory://", "--waive", "LEASE-1"],
        ["memory://", "--waive", "NO-1=a reason"],
        [],
    ],
)
def test_unusable_commands_are_2(tmp_path: pathlib.Path, arguments: list[str]) -> None:
    assert run(tmp_path, *arguments).returncode == 2


def test_surroundings_change_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -k nothing --collect-only\n")
    (tmp_path / "conftest.py").write_text("raise SystemExit('the foreign conftest was loaded')\n")
    (tmp_path / "json.py").write_text("raise SystemExit('the foreign json was loaded')\n")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.pop(0);"
         "from multiboard_conformance.main import main; sys.exit(main())",
         "memory://", "--quick", "--only", "RUN-1"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, PATHS)),
            "PYTEST_ADDOPTS": "--collect-only",
            "PYTEST_PLUGINS": "nonsense",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RUN-1    passed" in done.stdout


def test_failure_tells_id_sentence_and_operations(tmp_path: pathlib.Path) -> None:
    status, judged, printed = report(
        tmp_path, "tests.mutants.memory_mutants:ConsumedComesBack", "--quick", "--only", "DIR-2"
    )
    assert (status, judged["result"]) == (1, "failed")
    assert "DIR-2: Adding the same key again is the same posting, not a second one." in printed
    assert "It asks: A posting that was consumed does not come back" in printed
    assert "(alone: -k check_consumed_posting_does_not_come_back --seed " in printed
    assert "remove([<k #1 me>]" in printed


def test_waived_failure_is_partial(tmp_path: pathlib.Path) -> None:
    status, judged, printed = report(
        tmp_path,
        "tests.mutants.memory_mutants:ConsumedComesBack", "--quick", "--only", "DIR-2",
        "--waive", "DIR-2=broken",
    )  # fmt: skip
    assert (status, judged["result"]) == (0, "partial"), printed
    assert judged["guarantees"]["DIR-2"]["verdict"] == "waived"
    assert judged["waived"] == {
        "check_consumed_posting_does_not_come_back": "broken",
        "check_two_posters_of_one_key_repeat[remove]": "broken",
    }


def test_waived_check_by_name(tmp_path: pathlib.Path) -> None:
    status, judged, printed = report(
        tmp_path, "tests.mutants.memory_mutants:ConsumedComesBack", "--quick", "--only", "DIR-2",
        "--waive", "check_consumed_posting_does_not_come_back=broken",
        "--waive", "check_two_posters_of_one_key_repeat[remove]=broken",
    )  # fmt: skip
    assert (status, judged["result"]) == (0, "partial"), printed


def test_needless_waiver_fails(tmp_path: pathlib.Path) -> None:
    status, judged, _ = report(
        tmp_path, "memory://", "--quick", "--only", "DIR-3", "--waive", "DIR-3=I thought so"
    )
    assert (status, judged["result"], judged["needless_waivers"]) == (1, "failed", ["DIR-3"])


def test_waiver_covers_no_other_guarantee(tmp_path: pathlib.Path) -> None:
    status, judged, _ = report(
        tmp_path,
        "tests.mutants.memory_mutants:RankAsText", "--quick", "--only", "DIR-3", "--only", "DIR-2",
        "--waive", "DIR-2=another matter",
    )  # fmt: skip
    assert (status, judged["guarantees"]["DIR-3"]["verdict"]) == (1, "failed")


def test_report_tells_how_to_reproduce_it(tmp_path: pathlib.Path) -> None:
    _, judged, _ = report(tmp_path, "memory://", "--quick", "--only", "DIR-3", "--seed", "7")
    assert judged["schema"] == "multiboard-conformance/1"
    assert (judged["seed"], judged["effort"], judged["store"]["store"]) == (7, "quick", "memory")
    assert judged["traits"]["cross_process"] is False
    assert judged["reproduce"].startswith("multiboard-conformance memory:// --quick --only DIR-3")


def test_guarantees_page_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "multiboard_conformance.backend.catalogue"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (ROOT / "conformance" / "GUARANTEES.md").read_text()


def test_table_of_operations_has_one_row_for_each() -> None:
    history = History()
    native = ValueError("not connected")
    error = errors.Unavailable("the client says:\n  line one\n  line two")
    error.__cause__ = native
    history.conclude(history.invoke("a", "count", {}), error)
    history.conclude(history.invoke("a", "acquire", {"claim_id": "0123456789abcdef" * 2}), None)
    heading, first, second = history.table().splitlines()
    assert heading.split() == ["when", "took", "who", "what", "outcome"]
    shown_error = "failed: Unavailable: the client says: line one line two (from ValueError)"
    assert first.endswith(shown_error)
    assert "acquire(claim_id=01234567..)" in second


def test_table_shows_all_that_concerns_a_posting() -> None:
    history = History()
    for key in ("a", "b", "a", "c"):
        history.conclude(history.invoke("w", "get", {"keys": [key]}), [None])
        history.conclude(history.invoke("w", "add", {"postings": [NewPosting(key, b"")]}), [])
    _, *rows, hidden, before, last = history.table(2, about=["a"]).splitlines()
    assert [row.split()[5] for row in rows] == ["get([a])", "add([a@0", "get([a])", "add([a@0"]
    assert hidden == "(... 2 earlier operations)"
    assert "get([c])" in before
    assert "add([c@0" in last


def test_readme_tells_of_every_hook() -> None:
    hooks = [name for name in vars(Harness) if not name.startswith("_")]
    readme = (ROOT / "conformance" / "README.md").read_text()
    assert [hook for hook in hooks if f"\n| `{hook}(" not in readme] == []


# -- reports ---------------------------------------------------------------------------------

REPORTS = sorted((ROOT / "conformance" / "reports").glob("*.json"))


@pytest.fixture(scope="module")
def known() -> dict[str, list[str]]:
    """The checks of the suite and their ids; its markers are not those of this pytest."""
    program = "import json; from multiboard_conformance.backend import catalogue;"
    program += "print(json.dumps({name: ids for name, _, ids in catalogue.checks()}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS))},
        capture_output=True,
        text=True,
        check=True,
    )
    judged: dict[str, list[str]] = json.loads(done.stdout)
    return judged


def test_every_store_has_a_report() -> None:
    assert {path.stem for path in REPORTS} == {"memory", *HARNESSES}


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_committed_report_knows_the_ids_of_the_suite(
    path: pathlib.Path, known: dict[str, list[str]]
) -> None:
    judged = json.loads(path.read_text())
    assert set(judged["guarantees"]) == set(GUARANTEES), "run: make reports"
    assert {name: one["ids"] for name, one in judged["checks"].items()} == known, (
        "run: make reports"
    )
    assert (judged["schema"], judged["result"], judged["effort"]) == (SCHEMA, "conformant", "full")
    assert (judged["waived"], judged["failures"]) == ({}, {})


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_committed_report_names_no_machine(path: pathlib.Path) -> None:
    text = path.read_text()
    assert not [word for word in ("127.0.0.1", "localhost", "/tmp", "/home") if word in text]


def test_servers_leave_nothing_out() -> None:
    left_out = {path.stem: json.loads(path.read_text())["not_exercised"] for path in REPORTS}
    # In Redis a purged key can't be used again: its own tests make the store forget it first. How
    # many changes it keeps stands in its scripts: the check of a trimmed history cuts them itself.
    of_redis = {
        "check_tokens_rise_where_a_purged_key_is_used_again": (
            "the store remembers for everybody what was purged"
        ),
        "check_history_that_the_backend_trims": "needs a harness with keep_changes",
    }
    assert (left_out["redis"], left_out["zookeeper"], left_out["etcd"]) == (of_redis, {}, {})


def test_report_as_markdown(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "report.md"
    _, judged, _ = report(
        tmp_path, "memory://", "--quick", "--only", "DIR-3", "--report", str(path)
    )
    text = path.read_text()
    assert text.startswith("# Conformance of multiboard.backends.memory:MemoryBackend\n")
    assert f"| DIR-3 | passed | {judged['guarantees']['DIR-3']['passed']}/" in text
    assert judged["reproduce"] in text


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("redis://user:secret@10.0.0.7:6379/3?prefix=x", "redis://HOST:PORT/3"),
        ("zookeeper://a,b,c:2181/root", "zookeeper://HOST:PORT/root"),
        ("sqlite:///var/lib/board.db", "sqlite:///PATH"),
        ("sqlite://", "sqlite://"),
        ("memory://name", "memory://name"),
        (
            "multiboard.backends.sqlite:SQLiteBackend?path=/var/x",
            "multiboard.backends.sqlite:SQLiteBackend",
        ),
    ],
)  # fmt: skip
def test_report_shows_no_places(target: str, shown: str) -> None:
    assert anonymous(target, Store(target)) == shown
