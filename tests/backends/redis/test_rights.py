# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Every script with each of its commands denied, while a board is open. A real server only.

Redis does not roll a script back. The account loses one right at a time and gets it back; what the
board holds is compared as the server dumps it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import exceptions as native

from multiboard import errors
from multiboard.backends.redis import RedisBackend, rights, script_loader
from multiboard.backends.redis.errors import translate_error
from multiboard.primitives import Lease, NewPosting, Shelf
from tests.backends.redis.accounts import ACCOUNT, documented
from tests.backends.redis.boards import at
from tests.waiting import eventually

BODY = b"of a posting"
LIVE = ("free", "late", "held", "held too", "timed", "next")
NAMES = tuple(name.replace(" ", "-") for name in LIVE)


class Scene:
    """A board with a posting in every state, and an account that may lose rights."""

    def __init__(self, server: Any, raw: Any) -> None:
        self.raw = raw
        self.namespace = f"r-{uuid.uuid4().hex[:12]}"
        raw.execute_command("ACL", "SETUSER", "multiboard", *documented())
        self.at = functools.partial(at, server, namespace=self.namespace, **ACCOUNT)
        self.board: RedisBackend = self.at()
        board = self.board
        board.keepalive()
        self.cursor = board.changes(None, 0.0).cursor
        board.add([NewPosting("trashed", BODY), NewPosting("next", BODY)])
        [(_, self.next)] = board.acquire_next("me", ["c-trashed"])
        board.remove([self.next], Shelf.TRASH)
        [(_, self.next)] = board.acquire_next("me", ["c-next"])
        board.add([NewPosting(name, BODY) for name in NAMES if name not in ("next", "late")])
        board.add([NewPosting("late", BODY, delay=0.02)])
        board.add([NewPosting("entity", BODY)], Shelf.ENTITIES)
        self.held = board.acquire("held", "me", "c-held")
        self.held_too = board.acquire("held-too", "me", "c-held-too")
        self.timed = board.acquire("timed", "me", "c-timed", 60.0)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *error: object) -> None:
        self.board.close()

    def run(self, name: str, *args: Any) -> Any:
        return self.board._board.run(name, *args)

    def dump(self) -> dict[bytes, bytes]:
        """Return all that the board's keys hold."""
        keys = sorted(self.raw.keys(f"multiboard:[{{]{self.namespace}[}}]*"))
        return {key: self.raw.dump(key) for key in keys}

    def denied(self, command: str, call: Callable[[Scene], object]) -> object:
        """Return the result of a call, or the error that it raises, without one command."""
        self.raw.execute_command("ACL", "SETUSER", "multiboard", f"-{command.lower()}")
        try:
            return call(self)
        except errors.MultiboardError as error:
            return error
        finally:
            self.raw.execute_command("ACL", "SETUSER", "multiboard", f"+{command.lower()}")


def removal(*names: str, to: Shelf | None) -> Callable[[Scene], object]:
    def call(scene: Scene) -> object:
        leases: list[Lease] = [getattr(scene, name) for name in names]
        results = scene.board.remove(leases, to)
        assert not any(results), results
        return results

    return call


def session(scene: Scene) -> str:
    return str(scene.board._board._process().ensure_session().number)


#: A case for each script and what it does, and the script that then writes.
CALLS: dict[str, tuple[str, Callable[[Scene], object]]] = {
    "add": ("add", lambda s: s.board.add([NewPosting("new", BODY, delay=0.01)])),
    "enter": ("enter", lambda s: s.board.add([NewPosting("other", BODY)], Shelf.ENTITIES)),
    "list": ("list", lambda s: s.board.list()),
    "count": ("count", lambda s: s.board.count()),
    "consume one": ("remove_fast", removal("held", to=None)),
    "consume several": ("remove", removal("held", "timed", "next", to=None)),
    "trash": ("remove", removal("held", "timed", "next", to=Shelf.TRASH)),
    "restore": ("restore", lambda s: s.board.restore("trashed")),
    "purge": ("purge", lambda s: s.board.purge(["trashed"])),
    "purge entities": ("purge", lambda s: s.board.purge(["entity"], Shelf.ENTITIES)),
    "acquire": ("acquire_fast", lambda s: s.board.acquire("free", "me", "c-1")),
    "acquire for a time": ("acquire", lambda s: s.board.acquire("free", "me", "c-1", 0.05)),
    "acquire a delayed one": (
        "acquire",
        lambda s: s.run("acquire", session(s), 0, 4_000_000, "late", "me", "c-1", 0),
    ),
    "acquire next": ("acquire_next", lambda s: s.board.acquire_next("me", ["c-1", "c-2"])),
    "acquire next for a time": (
        "acquire_next",
        lambda s: s.board.acquire_next("me", ["c-1", "c-2"], 0.05),
    ),
    "renew": ("renew", lambda s: s.board.renew(s.timed, 0.05)),
    "release": ("release", lambda s: s.board.release(s.held)),
    "release with a delay": ("release", lambda s: s.board.release(s.next, 0.05)),
    "release a timed one": ("release", lambda s: s.board.release(s.timed)),
    "keepalive": ("keepalive", lambda s: s.board.keepalive()),
    "changes": ("changes", lambda s: s.run("changes", "", 500)),
    "touch": ("touch", lambda s: s.run("touch")),
    "close": ("close", lambda s: s.run("close", session(s))),
    "open": ("open", lambda s: s.at().close()),
}
SCRIPTS = sorted(path.stem for path in script_loader._SCRIPTS.glob("[!_]*.lua"))


def commands(script: str) -> tuple[str, ...]:
    """Return the commands that a script may call."""
    if script == "open":
        return tuple(name for name in script_loader._commands() if name not in ("EVAL", "EVALSHA"))
    parts = script_loader._parts(script, script in ("list", "count"))
    texts = [(script_loader._SCRIPTS / f"{part}.lua").read_text("utf-8") for part in parts]
    return rights.called("".join(texts))


@pytest.fixture(params=["asked", "tried"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """How a script finds out: as from Redis 7 on, or as on a server without that command."""
    if request.param == "tried":
        original = rights.check

        def without_acl_check(names: Any) -> str:
            return original(names).replace("redis.acl_check_cmd", "nil")

        monkeypatch.setattr(rights, "check", without_acl_check)
    script_loader.load_script.cache_clear()
    yield
    script_loader.load_script.cache_clear()


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scripts without their check, as if a right went while they run."""
    monkeypatch.setattr(rights, "check", lambda _: "local may = redis.acl_check_cmd")
    monkeypatch.setattr(rights, "check_writes", lambda _: "")
    script_loader.load_script.cache_clear()
    yield
    script_loader.load_script.cache_clear()


def test_every_script_has_a_case_and_every_command_a_form() -> None:
    assert sorted({script for script, _ in CALLS.values()}) == SCRIPTS
    named = set(itertools.chain.from_iterable(commands(script) for script in SCRIPTS))
    assert named == set(rights.HARMLESS)
    granted = {word[1:].partition("|")[0].upper() for word in documented() if word[0] == "+"}
    assert granted == {*script_loader._commands(), "TYPE"}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("case", CALLS)
def test_a_script_that_lacks_a_command_changes_nothing_and_names_it(
    server: Any, raw: Any, case: str
) -> None:
    script, call = CALLS[case]
    with Scene(server, raw) as scene:
        call = call if script == "open" else _only(script, call)
        scene.board.keepalive()
        before = scene.dump()
        for command in commands(script):
            failure = scene.denied(command, call)
            assert type(failure) is errors.AccessDenied, (command, failure)
            assert f"no right to {command} " in str(failure)
            assert scene.dump() == before, command
        call(scene)  # which is well with all of them


def _only(script: str, call: Callable[[Scene], object]) -> Callable[[Scene], object]:
    """Return the call, which must run that script."""

    def watched(scene: Scene) -> object:
        ran: list[str] = []
        checked = scene.board._board._run_checked

        def noted(connections: Any, name: str, *args: Any, **options: Any) -> Any:
            ran.append(name)
            return checked(connections, name, *args, **options)

        scene.board._board._run_checked = noted  # type: ignore[method-assign]
        try:
            return call(scene)
        finally:
            del scene.board._board._run_checked
            assert ran[0] == script or ran[-1] == script, ran

    return watched


#: The postings that a call may end.
ENDED = {
    "consume one": {"held"},
    "consume several": {"held", "timed", "next"},
    "purge": {"trashed"},
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", [case for case in CALLS if case not in ("list", "count", "open")])
def test_a_script_that_fails_in_the_middle_loses_no_posting(
    server: Any, raw: Any, case: str
) -> None:
    script, call = CALLS[case]
    left = list(commands(script))
    kept = {*NAMES, "trashed"} - ENDED.get(case, set())
    while left:
        with Scene(server, raw) as scene:
            before = scene.dump()
            while left:
                command = left.pop()
                scene.denied(command, call)
                if scene.dump() != before:
                    _check_that_none_is_lost(scene, kept, command)
                    break


def _check_that_none_is_lost(scene: Scene, kept: set[str], command: str) -> None:
    page, trash = scene.board.list(), scene.board.list(Shelf.TRASH)
    found = {posting.key: posting.body for posting in (*page.postings, *trash.postings)}
    assert {key: found.get(key) for key in kept} == dict.fromkeys(kept, BODY), command
    with contextlib.suppress(errors.LeaseLost, errors.PostingNotFound):
        scene.board.renew(scene.timed, 0.01)
    scene.board.close()  # whose leases end with it
    out = {posting.key for posting in trash.postings}
    with contextlib.closing(scene.at()) as worker:
        assert eventually(lambda: kept <= _handed_out(worker, out)), (command, kept - out)


def _handed_out(worker: RedisBackend, out: set[str]) -> set[str]:
    claims = [uuid.uuid4().hex for _ in range(10)]
    out |= {posting.key for posting, _ in worker.acquire_next("heir", claims)}
    return out


@pytest.mark.parametrize(
    "text",
    [
        "The user executing the script can't run this command or subcommand script: 5e98",
        "ACL failure in script: User me has no permissions to run the 'hset' command",
        "NOPERM User me has no permissions to run the 'hset' command",
    ],
    ids=["6.2 and 7.0", "7.2", "outside a script"],
)
def test_a_refusal_is_not_indeterminate(server: Any, text: str) -> None:
    with contextlib.closing(at(server)) as board:
        connection = board._board._make_locator().connect(5.0)
        connection.close()
    error = translate_error(
        connection.address, native.ResponseError(text), sent=True, read_only=False
    )
    assert type(error) is errors.AccessDenied
