# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Jobboards with a mistake in the generic layer, such as a fork of ours may have.

Each is one or a few places of the source, replaced in a copy of the package. Where a text is not
found exactly once its mutant is stale, which is a failure: write it anew.
"""

# ruff: noqa: E501 - a text is one line of the source, or it is not to be read
from __future__ import annotations

import pathlib
import shutil
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class BoardMutant:
    """A mistake, and the promises of a board that it breaks."""

    #: What its author did, as a name for the test.
    name: str
    ids: tuple[str, ...]
    #: File under ``multiboard/``, what stands there, what stands there instead; then the next.
    edits: tuple[tuple[str, str, str], ...]
    #: The URL of the store on which it is judged.
    url: str = "memory://"

    def write(self, folder: pathlib.Path) -> None:
        """Put a copy of the package with the mistake into a folder."""
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "multiboard", folder / "multiboard", ignore=ignore)
        for name, right, wrong in self.edits:
            path = folder / "multiboard" / name
            text = path.read_text()
            assert text.count(right) == 1, f"{self.name}: {text.count(right)} times {right!r}"
            path.write_text(text.replace(right, wrong))


KEEPER = "runtime/lease_keeper.py"
DEADLINES = "runtime/deadlines.py"
CLAIMS = "runtime/claims.py"
RETRY = "runtime/retry.py"
GUARD = "runtime/guard.py"
VIEW = "runtime/view.py"
STATE = "runtime/view_state.py"
UNCONFIRMED = "runtime/unconfirmed.py"
OPEN = "runtime/open_board.py"
BOARD = "jobboard/board.py"
EVENTS = "jobboard/events.py"


def _one(name: str, ids: str, path: str, right: str, wrong: str, url: str = "") -> BoardMutant:
    return BoardMutant(name, tuple(ids.split()), ((path, right, wrong),), url or "memory://")


BOARD_MUTANTS: tuple[BoardMutant, ...] = (
    # -- until when a claim stands ---------------------------------------------------------------
    _one("session counted from the answer", "BOARD-31", KEEPER,
         "                self._renewed(stamp, granted)\n\n        return",
         "                self._renewed(stamp._replace(asked_at=boottime()), granted)\n\n        return"),
    _one("expiry counted from the answer", "BOARD-31", KEEPER,
         "        kept.last(asked_at, lease.ends_in)\n",
         "        kept.last(boottime(), lease.ends_in)\n"),
    _one("extension counted from the answer", "BOARD-31", CLAIMS,
         "                self.keeper.keep(renewed, stamp)\n",
         "                self.keeper.keep(renewed, self.keeper.stamp())\n"),
    _one("no margin before the session's end", "BOARD-31", DEADLINES,
         "        self.deadline = asked_at + SAFE * granted\n",
         "        self.deadline = asked_at + granted\n"),
    _one("no margin before an expiry", "BOARD-31", DEADLINES,
         "        certain = min(SAFE * ends_in, ends_in - margin)\n",
         "        certain = ends_in\n"),
    _one("a claim begins with a whole session", "BOARD-31", KEEPER,
         "SAFE * self._session_time() / 2\n", "SAFE * self._session_time()\n"),
    _one("renewed when it is nearly over", "BOARD-31", DEADLINES,
         "RENEW = 0.3\n", "RENEW = 0.75\n"),
    _one("renewed all the time", "BOARD-31", DEADLINES, "RENEW = 0.3\n", "RENEW = 0.001\n"),
    _one("a renewal may take for ever", "BOARD-31", KEEPER,
         "            granted = self._backend.keepalive(within)\n",
         "            granted = self._backend.keepalive()\n"),
    _one("a pause of seconds after a refused renewal", "BOARD-31", KEEPER,
         "        timer.pause(0.2 if left is None else max(0.02, min(0.2, left / 10)))\n",
         "        timer.pause(5.0)\n"),
    # -- what is reported ------------------------------------------------------------------------
    _one("losses wait behind other events", "BOARD-30", EVENTS,
         "            lane.put(functools.partial(self._call, listener, LEASE_LOST, dict(details)))\n",
         "            self._events.put(functools.partial(self._call, listener, LEASE_LOST, details))\n"),
    _one("a loss is reported again and again", "BOARD-30", KEEPER,
         "            for lease, _ in lost:\n                self._kept.drop(lease)\n        self._report(lost)\n        return True\n",
         "        self._report(lost)\n        return True\n"),
    _one("a claim that was consumed is kept", "BOARD-30", CLAIMS,
         "        self._claims.pop(key, None)\n        self.keeper.forget(key)\n",
         "        self.keeper.forget(key) if key not in self._claims else None\n"),
    _one("losses are not reported where all is silent", "BOARD-30", KEEPER,
         "                lost += [(lease, \"its session could not be renewed in time\") for lease in lapsed]\n",
         ""),
    _one("a lost claim may be extended", "BOARD-30", CLAIMS,
         "        if claim is not None and claim.lost is not None:\n            return False  #",
         "        if False:\n            return False  #"),
    _one("a claim with an expiry is not looked at", "BOARD-30", DEADLINES,
         "        self.look_at = asked_at + LOOK * certain if certain > 0.05 else None\n",
         "        self.look_at = None\n"),
    # -- sessions that end -----------------------------------------------------------------------
    _one("a claim that is registered late stands", "BOARD-37", KEEPER,
         "                self._kept.doubtful.add(lease.key)\n", "                pass\n"),
    _one("entities are not shown again", "BOARD-37", KEEPER,
         "        if self._entities:\n            self._enter_again = True\n",
         "        if self._entities:\n            self._enter_again = False\n"),
    # -- what nobody holds -----------------------------------------------------------------------
    _one("unconfirmed claims are forgotten", "BOARD-32", KEEPER,
         "            self._unconfirmed.note(claim_ids, key, boottime(), late=answered)\n", ""),
    _one("doubts are noted for a claim that is answered only", "BOARD-32", RETRY,
         "            if claiming.lost:\n                self._on_unconfirmed(claim_ids, key, False)\n",
         ""),
)  # fmt: skip

#: They have not been judged yet: each is to be seen to die before it is moved up.
UNTRIED: tuple[BoardMutant, ...] = (
    _one("look counted from the answer", "BOARD-31", KEEPER,
         "                    kept.last(asked_at, current.ends_in)\n",
         "                    kept.last(boottime(), current.ends_in)\n"),
    _one("an interrupted claim is forgotten", "BOARD-32", CLAIMS,
         "        except BaseException:\n            self._interrupted(claim_ids, key)\n            raise\n",
         "        except ZeroDivisionError:\n            raise\n"),
    _one("what can't be consumed stays claimed", "BOARD-32", CLAIMS,
         "            self._give_back(leases)\n            raise\n", "            raise\n"),
    _one("what can't be abandoned stays claimed", "BOARD-32", CLAIMS,
         "        except errors.BackendError:\n            self._give_back([lease])\n            raise\n",
         "        except errors.BackendError:\n            raise\n"),
    _one("what was reported lost is not given back", "BOARD-32", KEEPER,
         "                self._returns.update((lease.key, (lease, now + rest)) for lease in lapsed)\n",
         ""),
    _one("claims in flight are looked for", "BOARD-3", UNCONFIRMED,
         "        self._in_flight.update(claim_ids)\n", "        pass\n"),
    # -- doubts ----------------------------------------------------------------------------------
    _one("a repeat has another claim id", "BOARD-33", RETRY,
         "            return once.acquire(key, holder, claim_id, expires_in)\n",
         "            ids = iter(range(10**6))\n"
         "            return once._do(lambda: self.backend.acquire(\n"
         "                key, holder, f\"{claim_id}-{next(ids)}\", expires_in))\n"),
    _one("what is unknown is reported as refused", "BOARD-33", RETRY,
         "            if lost:\n", "            if not lost and lost:\n"),
    _one("nothing ends the repeats", "BOARD-33", RETRY,
         "                tenacity.stop_after_delay(self._patience),\n",
         "                tenacity.stop_after_delay(86400),\n"),
    _one("errors of the client come through", "BOARD-33", GUARD,
         "            raise errors.Indeterminate(\n                f\"{type(self.backend).__name__} failed",
         "            raise\n            raise errors.Indeterminate(\n                f\"{type(self.backend).__name__} failed"),
    _one("a job that can't be seen is complete", "BOARD-33", OPEN,
         "        posting = self.guard.get([job.key])[0]\n        if posting is None:\n            self._check_gone(job)\n",
         "        try:\n            posting = self.guard.get([job.key])[0]\n        except errors.BackendError:\n            posting = None\n"
         "        if posting is None:\n            self._check_gone(job)\n"),
    _one("waiting for a job that can't be seen ends well", "BOARD-33", OPEN,
         "        gone = self._wait_absent(job.key, timeout)\n",
         "        try:\n            gone = self._wait_absent(job.key, timeout)\n        except errors.BackendError:\n            gone = True\n"),
    # -- owners ----------------------------------------------------------------------------------
    _one("a stale owner acts by its name", "BOARD-6", CLAIMS,
         "        own = {key: self._claims[key].lease for key in keys if key in self._claims}\n",
         "        own: dict[str, Lease] = {}\n"),
    _one("anybody may finish what this board claims", "BOARD-11", CLAIMS,
         "            elif lease.holder != who:\n", "            elif lease.holder != who and key not in own and False:\n"),
    # -- the next job ----------------------------------------------------------------------------
    _one("the last jobs come first", "BOARD-34", CLAIMS,
         "            return jobs\n\n        with self.view.asking()",
         "            return jobs[::-1]\n\n        with self.view.asking()"),
    _one("the view is asked in any order", "BOARD-34", VIEW,
         "            return iter(self._state.in_order())\n",
         "            return iter(sorted(self._state.entries.values(), key=lambda e: e.posting.key))\n"),
    _one("one job more than is asked for", "BOARD-34", CLAIMS,
         "            if len(taken) == limit:\n", "            if len(taken) > limit:\n"),
    _one("delays are not looked at", "BOARD-34", STATE,
         "        due_at = boottime() + posting.due_in\n        if known",
         "        due_at = boottime()\n        if known"),
    _one("nobody wakes when a job is due", "BOARD-34", VIEW,
         "                until = give_up if due is None else min(give_up, due)\n",
         "                until = give_up\n"),
    _one("nobody wakes when a claim ends", "BOARD-34", STATE,
         "            entry.leased, entry.tick = None, self._tick\n            self._open(key, entry)\n\n    def _report_end",
         "            entry.leased, entry.tick = None, self._tick\n\n    def _report_end"),
    _one("nobody wakes when a claim is given back", "BOARD-34", STATE,
         "            self._ripe.discard(key)\n        if entry.leased is None:\n            self._open(key, entry)\n",
         "            self._ripe.discard(key)\n        if known is None and entry.leased is None:\n            self._open(key, entry)\n"),
    _one("what can't be read hides what is behind it", "BOARD-34", CLAIMS,
         "            if taken or not won:\n", "            if True:\n"),
    _one("the delay of an abandoned job is dropped", "BOARD-34", CLAIMS,
         "            self.guard.release(lease, delay)\n", "            self.guard.release(lease)\n"),
    # -- forks -----------------------------------------------------------------------------------
    _one("a child uses its parent's threads", "BOARD-35", BOARD,
         "        if here.pid != os.getpid():\n", "        if False:\n", "sqlite://"),
    _one("a child keeps its parent's claims", "BOARD-35", BOARD,
         "            here = self._open = self._connect(here.backend)\n            self._on_register()\n",
         "            here.pid = os.getpid()\n", "sqlite://"),
    # -- the view --------------------------------------------------------------------------------
    _one("a listing shows what has gone since", "BOARD-36", STATE,
         "        if self._gone.get(key, -1) > asked_at or (known",
         "        if (known"),
    _one("a listing undoes what was claimed since", "BOARD-36", STATE,
         " or (known is not None and known.tick > asked_at):", ":"),
    _one("a listing drops what was posted since", "BOARD-36", STATE,
         "if k not in there and e.tick <= asked_at]:", "if k not in there]:"),
    _one("the feed begins after the listing", "BOARD-36", VIEW,
         "                cursor = self._cursor = answer.cursor\n",
         "                if answer.reset:\n"
         "                    answer = self._backend.changes(None, 0.0)\n"
         "                cursor = self._cursor = answer.cursor\n"),
    _one("a reset is not listed", "BOARD-36", VIEW,
         "                if answer.reset or boottime()", "                if cursor is None or boottime()"),
    _one("deaths are reported as given back", "BOARD-36", STATE,
         "            self._on_change(kind, entry.item)\n            entry.leased, entry.tick = None",
         "            self._on_change(ChangeKind.RELEASED, entry.item)\n            entry.leased, entry.tick = None"),
    _one("own claims are reported twice", "BOARD-36", STATE,
         "        if entry is None or token <= entry.last_token:\n",
         "        if entry is None or token < entry.last_token:\n"),
    _one("a fresh list is not fresh", "BOARD-22", VIEW,
         "        if not self._catch_up():\n            self._list()\n",
         "        pass\n"),
)  # fmt: skip
