# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What threads need that an exception may strike at any instruction. Imports the standard library.

A signal handler runs in the main thread, between any two of its instructions, and may raise there:
a time limit, ``KeyboardInterrupt``. :class:`threading.Condition` and :class:`threading.Event` do
not survive that: their ``__enter__`` and ``__exit__`` are functions in Python, and what strikes
within leaves their lock locked for ever. What is here does survive, by four rules that the rest of
the project keeps too (ADR 0021):

- A lock is taken by ``with``, and it is one whose ``__enter__`` and ``__exit__`` are in C: then
  nothing comes between the lock and the block that frees it. A lock that is tried for a while is an
  ``RLock``, tried within the ``try`` whose ``finally`` frees it, and :func:`free` suffers that it
  was never had.
- No lock is held by a generator (``contextlib.contextmanager``): where it is struck at its border
  it waits, with the lock, until somebody drops the traceback.
- What takes several steps is built beside and swapped in by one assignment, or it can be found to
  be broken by whoever comes next, and is put right then.
- Nobody relies on being woken: who wakes may be struck before it comes to that.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

#: Seconds after which who waits looks for itself, since who was to wake it may have been struck.
LOOK = 1.0

if TYPE_CHECKING:

    class _RLock:
        """What is used of the lock of :func:`threading.RLock`, whose class has no public name."""

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
        def release(self) -> None: ...
        def __enter__(self) -> bool: ...
        def __exit__(self, *_: object) -> None: ...
        def _release_save(self) -> Any: ...
        def _acquire_restore(self, state: Any) -> None: ...

else:
    _RLock = type(threading.RLock())


class Condition(_RLock):
    """A condition variable, and the lock that belongs to it; both survive interrupts.

    :meth:`wait` may return early, also for no reason: ask again whether what was waited for is
    there. It is called with the lock held once, not twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiters: list[Any] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Wait to be woken, with the lock free meanwhile; return whether somebody did."""
        waiter = _thread.allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        # What is given back is what was had once, whether or not it is stored below.
        state: Any = (1, threading.get_ident())
        woken = False
        try:
            state = self._release_save()
            span = LOOK if timeout is None else min(LOOK, max(0.0, timeout))
            woken = waiter.acquire(True, span)
        finally:
            self._acquire_restore(state)
        if not woken:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
        return woken

    def wait_for(self, ready: Callable[[], bool], timeout: float) -> bool:
        """Wait until ``ready`` is true, for up to ``timeout`` seconds; return whether it is."""
        give_up = time.monotonic() + timeout
        while not (found := ready()):
            left = give_up - time.monotonic()
            if left <= 0:
                break
            self.wait(left)
        return found

    @property
    def awaited(self) -> bool:
        """Whether somebody waits; called with the lock held."""
        return bool(self._waiters)

    def notify_all(self) -> None:
        """Wake all who wait; called with the lock held."""
        if not self._waiters:
            return
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            with contextlib.suppress(RuntimeError):
                waiter.release()


class Event(threading.Event):
    """A :class:`threading.Event` that survives interrupts."""

    def __init__(self) -> None:
        super().__init__()
        self._set = False
        self._changed = Condition()

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        with self._changed:
            self._set = True
            self._changed.notify_all()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        give_up = None if timeout is None else time.monotonic() + timeout
        if self._set:
            return True
        with self._changed:
            while not self._set:
                left = None if give_up is None else give_up - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            return self._set


def free(lock: Any) -> None:
    """Release a lock of this thread, where it has it. To be called from a ``finally`` at once.

    It is not safe to be struck before it begins: inline it where that matters.
    """
    with contextlib.suppress(RuntimeError):
        lock.release()


# -- threads ---------------------------------------------------------------------------------

_starting = _thread.allocate_lock()


def begin(thread: threading.Thread) -> None:
    """Start a thread; may be called again, and must be where it was interrupted.

    :meth:`threading.Thread.start` waits for the new thread, by an event that an interrupt breaks
    for both. So another thread does that, in which no signal handler runs.
    """
    if thread.ident is None:
        _thread.start_new_thread(_begin, (thread,))


def _begin(thread: threading.Thread) -> None:
    with _starting:
        if thread.ident is None:
            thread.start()


def _after_fork() -> None:
    global _starting
    _starting = _thread.allocate_lock()


os.register_at_fork(after_in_child=_after_fork)


def uninterrupted(operation: Callable[[], T]) -> T:
    """Do something in a thread of its own, and wait for it. Costs some tenths of a millisecond.

    Where whoever waits is interrupted, it is done to its end all the same.
    """
    done = _thread.allocate_lock()
    done.acquire()
    outcome: list[tuple[Any, BaseException | None]] = []
    turn, turns = _thread.allocate_lock(), [True]

    def run() -> None:
        with turn:
            if not turns:
                return
            turns.clear()
        try:
            outcome.append((operation(), None))
        except BaseException as error:
            outcome.append((None, error))
        finally:
            done.release()

    while True:
        try:
            # A thread that ``threading`` knows: of any other it keeps a dummy for ever.
            begin(threading.Thread(target=run, name="multiboard-helper", daemon=True))
        except RuntimeError:  # the interpreter shuts down: it makes no threads any more
            return operation()
        while not done.acquire(timeout=LOOK):
            if turns:
                break  # not begun: what is set in a thread may strike the one that it just makes
        else:
            break
    value, error = outcome[0]
    if error is not None:
        try:
            raise error
        finally:
            del error
    found: T = value
    return found


# -- whose exception it is -------------------------------------------------------------------


def is_interrupt(error: BaseException) -> bool:
    """Tell whether an exception was raised by a signal handler.

    A handler is given the frame that it interrupts, which is the one that it returns to: no other
    function is given its caller's frame. Or it is one that stands now. What a handler in C raises,
    or :c:func:`PyThreadState_SetAsyncExc`, has no frame of its own and is not seen here.
    """
    if not isinstance(error, Exception):
        return True
    handlers: set[types.CodeType] | None = None
    trace = error.__traceback__
    if trace is None or trace.tb_next is None:
        return False  # the very frame that asks
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        code = frame.f_code
        if trace is None or code.co_argcount >= 2 or code.co_flags & 0x04:
            if _has_its_caller(frame):
                return True
            handlers = _handlers() if handlers is None else handlers
            if code in handlers:
                return True
    return False


def _has_its_caller(frame: types.FrameType) -> bool:
    code, back = frame.f_code, frame.f_back
    if back is None:
        return False
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 0x04)
    values = frame.f_locals
    for name in code.co_varnames[:count]:
        value = values.get(name)
        if value is back or (type(value) is tuple and any(one is back for one in value)):
            return True
    return False


def _handlers() -> set[types.CodeType]:
    """Return the code of the handlers that stand now."""
    found: set[types.CodeType] = set()
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        while hasattr(handler, "func"):
            handler = handler.func  # functools.partial
        handler = getattr(handler, "__func__", handler)
        if not isinstance(handler, types.FunctionType) and callable(handler):
            handler = type(handler).__call__
        if isinstance(handler, types.FunctionType):
            found.add(handler.__code__)
    return found


def packages_of(error: BaseException) -> Iterator[str]:
    """Yield the packages whose code the exception came through."""
    trace = error.__traceback__
    while trace is not None:
        yield str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        trace = trace.tb_next


def is_foreign(error: BaseException, packages: Collection[str]) -> bool:
    """Tell whether an exception is neither of these packages' nor a defect: somebody's time limit.

    What is set from another thread has no handler's frame. It is known by its class, which is of a
    package that is not used here.
    """
    package = type(error).__module__.partition(".")[0]
    used = package in sys.stdlib_module_names or package in packages
    return not used and package not in packages_of(error)


def behind(
    error: BaseException,
    before: BaseException | None,
    also: Callable[[BaseException], bool] = lambda _: False,
) -> BaseException | None:
    """Return the interrupt that an error was made of, if there is one.

    ``before`` is what was being handled already when that began which raised the error; ``also``
    decides of what else is one.
    """
    seen: set[int] = set()
    cause: BaseException | None = error.__cause__ or error.__context__
    while cause is not None and cause is not before and id(cause) not in seen:
        if is_interrupt(cause) or also(cause):
            return cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return None
