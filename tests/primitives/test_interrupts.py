# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What threads share survives a signal handler that raises, and its exception is told apart."""

from __future__ import annotations

import ctypes
import functools
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from multiboard import errors
from multiboard.backends.memory import MemoryBackend, MemorySettings
from multiboard.primitives import interrupts
from multiboard.runtime.retry import RetryingGuard
from tests.waiting import eventually

# The time limit of a test is a signal by default, the very one that these tests raise.
pytestmark = pytest.mark.timeout(120, method="thread")


class TimeIsUp(TimeoutError):
    """A time limit that looks like a socket's."""


@pytest.fixture
def alarm() -> Iterator[Callable[..., None]]:
    """Set a handler of SIGALRM, and when it is to strike."""
    before = signal.getsignal(signal.SIGALRM)

    def arm(handler: Any, seconds: float = 0.05) -> None:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield arm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.long
def test_a_condition_is_free_after_each_interrupt(alarm: Callable[..., None]) -> None:
    condition = interrupts.Condition()
    chance, armed, struck = random.Random(1), False, 0

    def handler(*_: object) -> None:
        if armed:
            raise TimeIsUp

    others = 0

    def other() -> None:
        nonlocal others
        while others >= 0:
            with condition:
                others += 1
                condition.notify_all()
            time.sleep(0.0002)

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    for _ in range(500):
        alarm(handler, chance.uniform(1e-6, 6e-5))
        try:
            armed = True
            for _ in range(20):
                with condition:
                    condition.wait(0.00001)
            armed = False
        except TimeIsUp:
            armed, struck = False, struck + 1
        seen = others
        eventually(functools.partial(lambda seen: others > seen, seen))
    assert struck > 100
    with condition:
        others = -1_000_000
    thread.join()


def test_a_waiter_looks_for_itself_where_nobody_wakes_it() -> None:
    condition = interrupts.Condition()
    begun = time.monotonic()
    with condition:
        assert not condition.wait(30.0)
    assert time.monotonic() - begun < 15.0


def test_an_event_wakes_who_waits() -> None:
    event = interrupts.Event()
    assert not event.wait(0.01)
    timer = threading.Timer(0.05, event.set)
    timer.start()
    assert event.wait(30.0)
    event.clear()
    assert not event.is_set()
    timer.join()


def test_what_is_not_to_be_interrupted_is_done_to_its_end(alarm: Callable[..., None]) -> None:
    done = threading.Event()
    go = threading.Event()

    def operation() -> None:
        go.wait(30.0)
        done.set()

    def handler(*_: object) -> None:
        raise TimeIsUp

    alarm(handler)
    with pytest.raises(TimeIsUp):
        interrupts.uninterrupted(operation)
    assert not done.is_set()
    go.set()
    assert done.wait(30.0)


def test_an_uninterrupted_operation_answers_and_raises() -> None:
    assert interrupts.uninterrupted(lambda: 5) == 5
    with pytest.raises(KeyError, match="k"):
        interrupts.uninterrupted(functools.partial({}.__getitem__, "k"))


def test_a_thread_is_begun_once() -> None:
    ran: list[int] = []
    thread = threading.Thread(target=lambda: ran.append(1))
    interrupts.begin(thread)
    interrupts.begin(thread)
    eventually(lambda: ran)
    interrupts.begin(thread)
    thread.join()
    assert ran == [1]


# -- whose exception it is -------------------------------------------------------------------


class Limit:
    """Handlers in all the shapes that they have."""

    def __init__(self) -> None:
        self.before: Any = None

    def method(self, number: int, frame: object) -> None:
        """Raise, as a method."""
        raise TimeIsUp

    def uninstalled(self, number: int, frame: object) -> None:
        """Raise, when another handler stands again."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        raise TimeIsUp

    @staticmethod
    def forgetful(number: int, frame: object) -> None:
        """Raise, having let go of the frame."""
        del number, frame
        raise TimeIsUp

    @staticmethod
    def anything(*_: object) -> None:
        """Raise, and take whatever comes."""
        raise TimeIsUp

    @staticmethod
    def deeper(number: int, frame: object) -> None:
        """Have another function raise."""
        Limit.anything(number, frame)

    def __call__(self, number: int, frame: object) -> None:
        """Raise, as an object that is called."""
        raise TimeIsUp


SHAPES = [
    Limit().method,
    Limit().uninstalled,
    Limit.forgetful,
    Limit.anything,
    Limit.deeper,
    Limit(),
    functools.partial(Limit.anything, 1),
]


class Waiting(MemoryBackend):
    """A backend that waits for a socket, and takes what that raises for its store's."""

    def count(self, *_: Any) -> int:
        ours, theirs = socket.socketpair()
        try:
            ours.settimeout(5.0)
            ours.recv(1)
        except OSError as error:
            raise errors.Indeterminate("no answer") from error
        finally:
            ours.close()
            theirs.close()
        return 0


@pytest.fixture
def guarded() -> RetryingGuard:
    """A guard that would repeat for long what it takes for a failure of the store."""
    backend = Waiting(MemorySettings(name="interrupts", operation_timeout=60.0))
    backend.open()
    return RetryingGuard(backend)


@pytest.mark.parametrize("handler", SHAPES)
def test_a_handlers_exception_goes_through_the_guard_unchanged(
    alarm: Callable[..., None], guarded: RetryingGuard, handler: Any
) -> None:
    alarm(handler)
    with pytest.raises(TimeIsUp) as raised:
        guarded.count()
    assert raised.value.__cause__ is None


def test_a_socket_that_times_out_is_the_stores(guarded: RetryingGuard) -> None:
    with pytest.raises(errors.Indeterminate) as raised:
        guarded._once(lambda: _timed_out())
    assert isinstance(raised.value.__cause__, TimeoutError)


def _timed_out() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.01)
        ours.recv(1)


def test_an_error_of_the_store_stays_one_while_an_interrupt_is_handled(
    alarm: Callable[..., None], guarded: RetryingGuard
) -> None:
    alarm(Limit.anything)
    with pytest.raises(TimeIsUp):
        guarded.count()
    try:
        try:
            Limit().method(signal.SIGALRM, None)
        except TimeIsUp:
            guarded._once(_timed_out)
    except errors.Indeterminate:
        pass


def test_what_another_thread_sets_is_known_by_its_class(guarded: RetryingGuard) -> None:
    limit = type("Limit", (Exception,), {"__module__": "somebodys.limits"})
    begun, raised = threading.Event(), []

    def operation() -> None:
        begun.set()
        give_up = time.monotonic() + 30.0
        while time.monotonic() < give_up:
            time.sleep(0.001)

    def work() -> None:
        try:
            guarded._once(operation)
        except BaseException as error:
            raised.append(type(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(30.0)
    assert thread.ident is not None
    number = ctypes.c_ulong(thread.ident)
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(limit)) == 1
    thread.join()
    assert raised == [limit]


def test_a_defect_of_a_backend_is_no_interrupt(guarded: RetryingGuard) -> None:
    with pytest.raises(errors.Indeterminate, match="does not explain"):
        guarded._once(functools.partial({}.__getitem__, "k"))
