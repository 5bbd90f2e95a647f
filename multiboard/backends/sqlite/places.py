# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Where a database file may be: paths, file systems, and the file that none was named for.

It opens no database, and imports the errors only.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat

from multiboard import errors

#: File systems whose locks or shared memory do not join all those that can open the file.
NETWORK_FILE_SYSTEMS = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "davfs", "davfs2", "sshfs", "rclone"),
        *("afs", "coda", "ceph", "ceph-fuse", "lustre", "gfs2", "ocfs2", "gpfs", "beegfs", "pvfs2"),
        *("glusterfs", "orangefs", "mfs", "moosefs", "juicefs", "s3fs", "gcsfuse", "goofys"),
        *("9p", "virtiofs", "vboxsf", "prl_fs", "grpcfuse", "osxfs"),
    )
)


def file_system(path: str, mountinfo: str = "/proc/self/mountinfo") -> str | None:
    """Return the type of the file system that holds ``path``; None where it can't be told."""
    path = os.path.realpath(path)
    best, kind = "", None
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                mount, _, source = line.partition(" - ")
                where = mount.split(" ")[4]
                for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\134", "\\")):
                    where = where.replace(escape, character)
                inside = path == where or path.startswith(where.rstrip("/") + "/")
                if inside and len(where) >= len(best):  # of two mounts on one place the later
                    best, kind = where, source.split(" ")[0]
    except (OSError, IndexError):
        return None
    return kind


def is_network(kind: str | None) -> bool:
    """Tell whether a file system of this type is reached over a network or from another kernel."""
    return kind is not None and kind.rpartition("fuse.")[2] in NETWORK_FILE_SYSTEMS


def locate(path: str, create: bool = True) -> str:
    """Return the real path of a database that can be opened, and make the default's directory.

    Without ``create`` nothing is made, and neither the file nor its directory need be there.

    Raises: ``ConfigError``, ``Unavailable``, ``AccessDenied``, ``Unsupported``; each names it.
    """
    name = os.path.basename(path)
    if name.startswith(":memory:") or path.startswith("file:") or "\0" in path:
        raise errors.ConfigError(
            f"{path!r} is not the path of a file; for a board in memory use memory://"
        )
    if not path:
        path = os.path.join(_state_folder(), "multiboard", "multiboard.sqlite3")
        _check_text(path)
        try:
            if create:
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        except OSError as error:
            raise errors.AccessDenied(f"the default directory can't be made: {error}") from error
    _check_text(path)
    path = os.path.realpath(path)
    _check_text(path)  # a link, or the working directory, may lead anywhere
    folder = os.path.dirname(path)
    if not create and not os.path.lexists(path):
        return path
    if not os.path.isdir(folder):
        raise errors.Unavailable(f"{path} can't be made: there is no directory {folder}")
    if os.path.isdir(path):
        raise errors.Unavailable(f"{path} is a directory, not a database file")
    for part in (path, f"{path}-wal", f"{path}-shm", f"{path}-journal"):
        # SQLite would wait for ever at a pipe, and follow a device wherever it leads.
        if os.path.lexists(part) and not stat.S_ISREG(os.lstat(part).st_mode):
            raise errors.Unavailable(f"{part} is not a regular file")
    kind = file_system(path)
    if is_network(kind):
        raise errors.Unsupported(
            f"{path} is on a network file system ({kind}), where SQLite's locks and its shared "
            "memory do not work: use a local disk, or a store with a server"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise errors.AccessDenied(f"{path} can't be used: the directory {folder} is not writable")
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        raise errors.AccessDenied(f"{path} can't be read and written by this process")
    return path


def _state_folder() -> str:
    """Return the folder for what programs of this user keep.

    Raises: ``ConfigError`` where there is none.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):
        return state
    home = os.environ.get("HOME", "")
    if not home:
        with contextlib.suppress(KeyError):
            home = pwd.getpwuid(os.getuid()).pw_dir
    if not os.path.isabs(home):  # not set, and the user is not in the list of users
        raise errors.ConfigError(
            "sqlite:// is a file in the user's home, and there is none: name the file, as in"
            " sqlite:///var/lib/service/board.db, or set XDG_STATE_HOME or HOME"
        )
    return os.path.join(home, ".local", "state")


def _check_text(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("ascii", "backslashreplace")
        raise errors.ConfigError(f"the path {shown} is not UTF-8, as SQLite wants it") from None
