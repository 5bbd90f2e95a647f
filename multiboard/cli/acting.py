# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Operators' commands that end claims and jobs: abandon, consume, and setting aside.

A claim is ended by the token that was shown. Where the job has changed hands since, the store
refuses it, and nothing is done. A job that nobody claims is claimed for the moment, so that no
conductor begins it meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import socket
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cliff.command import Command

from multiboard import errors
from multiboard.cli import opening, selecting, words
from multiboard.cli.jobs import Listing
from multiboard.cli.selecting import Found
from multiboard.primitives import Lease, Posting, Shelf, arguments
from multiboard.runtime import codec
from multiboard.runtime.retry import RetryingGuard

#: Seconds for which an operator's command claims a job: should it die, the job is free after them.
MOMENT = 30.0


class Asking(Command):
    """A command that asks before it acts, or is told that it need not."""

    #: Written where there is nobody to ask.
    UNASKED = "say --yes: there is no terminal to ask on"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument("--yes", action="store_true", help="act without a question")
        return parser

    def may_ask(self, parsed_args: argparse.Namespace) -> bool:
        """Return whether there is a leave to act, or somebody to ask for it; else write that."""
        if parsed_args.yes or self.app.stdin.isatty():
            return True
        self.complain(self.UNASKED)
        return False

    def agreed(self, parsed_args: argparse.Namespace, question: str) -> bool:
        """Return whether to act; where not, that is written."""
        if parsed_args.yes:
            return True
        self.app.stderr.write(f"{question} [y/N] ")
        self.app.stderr.flush()
        if self.app.stdin.readline().strip().lower() in ("y", "yes"):
            return True
        self.complain("nothing was done")
        return False

    def complain(self, text: str) -> None:
        """Write a line to the error output."""
        self.app.stderr.write(f"{arguments.printable(text)}\n")

    def report(self, text: str) -> None:
        """Write a line to the output, at once: what was done is known, whatever comes next."""
        self.app.stdout.write(f"{arguments.printable(text)}\n")
        self.app.stdout.flush()


class _OnLive(Asking):
    """A command that ends what is on the live shelf: a claim, or a job with its claim."""

    #: What is asked, and what is reported.
    verb = ""
    done = ""
    #: Whether the job has to be claimed.
    of_claims = False

    def add_token(self, parser: argparse.ArgumentParser) -> None:
        """Let the command take the token of a claim."""
        parser.add_argument(
            "--token",
            type=words.whole(0, 2**63 - 1),
            help="act on the claim with this token only, as 'multiboard show' shows it: where the"
            " job has changed hands since, nothing is done",
        )

    def end(self, guard: RetryingGuard, lease: Lease, parsed_args: argparse.Namespace) -> None:
        """End a claim, or the job with it.

        Raises: ``LeaseLost``, ``PostingNotFound``: nothing was done.
        """
        raise NotImplementedError

    def act(self, url: str | None, uuids: Sequence[str], parsed_args: argparse.Namespace) -> int:
        """Show what there is, ask, and act; return the exit status."""
        if not self.may_ask(parsed_args):
            return 2
        if parsed_args.token is not None and len(uuids) != 1:
            raise errors.ConfigError("a token is one job's: name one job")
        with opening.opened(url) as guard:
            fit, status = [], 0
            for key, posting in zip(uuids, guard.get(uuids), strict=True):
                if why := self._why_not(key, posting, parsed_args.token):
                    self.complain(why)
                    status = 1
                elif posting is not None:
                    fit.append(posting)
            if not fit:
                return 1
            if not parsed_args.yes:
                for posting in fit:
                    self.complain(f"{_name(posting)} ({posting.key}): {_claim(posting)}")
            number = "this job" if len(fit) == 1 else f"these {len(fit)} jobs"
            if not self.agreed(parsed_args, f"{self.verb} {number}?"):
                return 1
            for posting in fit:
                # A store takes an end that its holder made for a repeat of this one, and says yes.
                now = guard.get([posting.key])[0]
                if now is None or now.lease != posting.lease:
                    self.complain(_changed(posting.key, now))
                    status = 1
                    continue
                try:
                    with _leased(guard, posting, self.verb.lower()) as lease:
                        self.end(guard, lease, parsed_args)
                except (errors.LeaseLost, errors.LeaseHeld, errors.PostingNotFound):
                    self.complain(_changed(posting.key, guard.get([posting.key])[0]))
                    status = 1
                else:
                    self.report(f"{self.done} {posting.key}")
        return status

    def _why_not(self, key: str, posting: Posting | None, token: int | None) -> str | None:
        if posting is None:
            return f"no job {key} on the board"
        if token is not None and (posting.lease is None or posting.lease.token != token):
            return _changed(key, posting)
        if self.of_claims and posting.lease is None:
            return f"nobody claims the job {key}: nothing was done"
        return None


def _name(posting: Posting) -> str:
    try:
        return repr(codec.decode(posting.body).name)
    except codec.Undecodable:
        return "a job that can't be read"


def _claim(posting: Posting) -> str:
    if posting.lease is None:
        return "not claimed"
    return f"claimed by {posting.lease.holder!r}, token {posting.lease.token}"


def _changed(key: str, now: Posting | None) -> str:
    how = "it is gone" if now is None else f"it is {_claim(now)}"
    return f"nothing was done: the job {key} is not as it was shown any more; {how}"


@contextlib.contextmanager
def _leased(guard: RetryingGuard, posting: Posting, verb: str) -> Iterator[Lease]:
    """Yield the claim as it was shown, or one of our own, which does not stay.

    Raises: ``LeaseHeld``, ``PostingNotFound``.
    """
    if posting.lease is not None:
        yield posting.lease
        return
    claim_id = uuid.uuid4().hex
    lease = None
    try:
        lease = guard.acquire(posting.key, _who(verb), claim_id, MOMENT)
        yield lease
    except BaseException:  # an interrupt too
        if lease is not None:
            with contextlib.suppress(errors.MultiboardError):
                guard.release(lease)
        raise


def _who(verb: str) -> str:
    """Return what the owner of a job is called while a command acts on it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        user = str(os.getuid())
    name = arguments.printable(f"multiboard {verb} by {user}@{socket.gethostname()}")
    return name[:255]


class Abandon(_OnLive):
    """End the claims on jobs, so that others may have them; who held them is refused from then."""

    verb, done, of_claims = "Abandon", "abandoned", True

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        words.add_url_and_uuids(parser, several=True)
        self.add_token(parser)
        parser.add_argument(
            "--delay",
            type=words.seconds,
            default=0.0,
            help="let nobody claim them for so long: 90s, 10m (default: 0)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        return self.act(*words.url_and_uuids(parsed_args.words), parsed_args)

    def end(self, guard: RetryingGuard, lease: Lease, parsed_args: argparse.Namespace) -> None:
        guard.release(lease, parsed_args.delay)


def _remove(guard: RetryingGuard, lease: Lease, to: Shelf | None) -> None:
    error = guard.remove([lease], to)[0]
    if error is not None:
        raise error


class Consume(_OnLive):
    """Take jobs off the board as if they were done; nothing of them is kept."""

    verb, done = "Consume", "consumed"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        words.add_url_and_uuids(parser, several=True)
        self.add_token(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        return self.act(*words.url_and_uuids(parsed_args.words), parsed_args)

    def end(self, guard: RetryingGuard, lease: Lease, parsed_args: argparse.Namespace) -> None:
        _remove(guard, lease, None)


class Trash(_OnLive, Listing):
    """List the jobs that were set aside; with UUIDs, set these aside."""

    verb, done = "Set aside", "trashed"
    shelf = Shelf.TRASH

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        words.add_url_and_uuids(parser, several=True, optional=True)
        self.add_token(parser)
        self.add_choice(parser)
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """List the trash, or set jobs aside."""
        url, uuids = words.url_and_uuids(parsed_args.words, optional=True)
        if uuids:
            return self.act(url, uuids, parsed_args)
        if parsed_args.token is not None or parsed_args.yes:
            raise errors.ConfigError("name the jobs to set aside by their UUIDs")
        return int(super().run(parsed_args))

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        url, _ = words.url_and_uuids(parsed_args.words, optional=True)
        return self.listed(url, parsed_args)

    def end(self, guard: RetryingGuard, lease: Lease, parsed_args: argparse.Namespace) -> None:
        _remove(guard, lease, Shelf.TRASH)


# -- the trash -------------------------------------------------------------------------------------


class _OnTrash(Asking):
    """A command that does something to trashed jobs: those named, or all that are chosen."""

    verb = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        words.add_url_and_uuids(parser, several=True, optional=True)
        parser.add_argument(
            "--all", action="store_true", help="act on all in the trash, or on those chosen"
        )
        selecting.add_options(parser, Shelf.TRASH)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        wanted = selecting.chosen(parsed_args, Shelf.TRASH)
        if wanted is not None and not parsed_args.all:
            raise errors.ConfigError("what chooses among the trashed jobs goes with --all")
        url, uuids = words.url_and_uuids(parsed_args.words, optional=parsed_args.all)
        if parsed_args.all and uuids:
            raise errors.ConfigError("name the jobs, or say --all, not both")
        if parsed_args.all and not self.may_ask(parsed_args):
            return 2
        with opening.opened(url) as guard:
            if not parsed_args.all:
                return self._absent(self.on(guard, uuids))
            found = selecting.select(guard, Shelf.TRASH, wanted).found
            if found and not self.agreed(parsed_args, f"{self.verb} {_number(found)}?"):
                return 1
            gone = len(self.on(guard, selecting.keys(found)))
            self.report(f"{len(found) - gone} of {_number(found)}")
        return 0

    def on(self, guard: RetryingGuard, uuids: Sequence[str]) -> list[str]:
        """Act on jobs, and report it; return those that are not in the trash."""
        raise NotImplementedError

    def _absent(self, uuids: Iterable[str]) -> int:
        status = 0
        for key in uuids:
            self.complain(f"no job {key} in the trash")
            status = 1
        return status


def _number(found: Sequence[Found]) -> str:
    return "1 job in the trash" if len(found) == 1 else f"{len(found)} jobs in the trash"


class Restore(_OnTrash):
    """Put jobs back from the trash, the last of their priority."""

    verb = "Restore"

    def on(self, guard: RetryingGuard, uuids: Sequence[str]) -> list[str]:
        absent = []
        trashed = {posting.key for posting in selecting.postings(guard, Shelf.TRASH, [])}
        for key in uuids:
            # A live job would be answered as if it had just been restored.
            if key not in trashed:
                absent.append(key)
                continue
            try:
                guard.restore(key)
            except errors.PostingNotFound:
                absent.append(key)
            else:
                self.report(f"restored {key}")
        return absent


class Purge(_OnTrash):
    """Delete jobs in the trash for good."""

    verb = "Delete for good"

    def on(self, guard: RetryingGuard, uuids: Sequence[str]) -> list[str]:
        done = guard.purge(uuids)
        for key, deleted in zip(uuids, done, strict=True):
            if deleted:
                self.report(f"purged {key}")
        return [key for key, deleted in zip(uuids, done, strict=True) if not deleted]
