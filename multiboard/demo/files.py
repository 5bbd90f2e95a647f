# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Which files the demonstration works on. The standard library only."""

from __future__ import annotations

import os
import pathlib
import stat
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from multiboard import errors

#: A folder may be as large as a disk: nobody waits for all of it to be counted.
LOOK_AT = 50_000
#: Bytes; each worker holds a file in its memory.
LARGEST = 32 * 1024 * 1024
_LEFT_OUT = {".git", "__pycache__", "site-packages", "dist-packages"}


@dataclass(frozen=True)
class Choice:
    """The files to work on."""

    folder: pathlib.Path
    files: Sequence[pathlib.Path]
    #: How many there were to choose from.
    found: int

    def __str__(self) -> str:
        return f"{len(self.files)} of {self.found} files of {self.folder}"


def choose(directory: str | None, limit: int) -> Choice:
    """Choose the first ``limit`` files of a folder and those below.

    Without a folder it is the sources of the standard library. Files that can't be read, are
    empty, or are larger than ``LARGEST`` do not count.

    Raises: ``ConfigError`` where there is nothing to work on.
    """
    folder = pathlib.Path(directory or sysconfig.get_path("stdlib")).resolve()
    if not folder.is_dir():
        raise errors.ConfigError(f"{folder} is not a directory")
    files = sorted(_files(folder, "" if directory else ".py"))
    if not files:
        raise errors.ConfigError(f"{folder} holds no files to work on")
    return Choice(folder, files[:limit], len(files))


def _files(folder: pathlib.Path, suffix: str) -> Iterator[pathlib.Path]:
    found = 0
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        for name in sorted(names):
            path = pathlib.Path(here, name)
            if name.endswith(suffix) and _is_fit(path):
                found += 1
                yield path
        if found >= LOOK_AT:
            return


def _is_fit(path: pathlib.Path) -> bool:
    try:
        str(path).encode()
        about = path.lstat()
    except (OSError, UnicodeEncodeError):
        return False
    fits = 0 < about.st_size <= LARGEST
    return stat.S_ISREG(about.st_mode) and fits and os.access(path, os.R_OK)
