"""Leases on parts, for workers that share a folder and may be killed at any time.

A lease is a file that is created exclusively; its modification time shows that its owner is alive. A lease expires if
it is not renewed in time, or if its process on this machine has ended; then another worker takes it over. The folder
must support exclusive creation and atomic renaming, as local disks and NFS from version 3 on do. Ages are computed from
times that the same file system sets, so the clocks of machines may differ.

Leases avoid duplicate work; they do not guarantee mutual exclusion. Two workers may hold the same lease for a while, if
one of them was suspended. The work must therefore be idempotent.
"""

import os
import secrets
import socket
import threading
from pathlib import Path

RENEW_INTERVAL = 4.0  # seconds
LEASE_TIMEOUT = 20.0  # seconds without a renewal after which a lease expires


class Leases:
    """The leases of one worker.

    Args:
        folder: an existing folder for the leases of all workers.
        timeout: seconds without a renewal after which a lease expires.
        renew_interval: seconds between renewals.
    """

    def __init__(self, folder: Path, *, timeout: float = LEASE_TIMEOUT, renew_interval: float = RENEW_INTERVAL) -> None:
        self._folder, self._timeout, self._renew_interval = folder, timeout, renew_interval
        self._held: set[str] = set()
        self._owner_id = f"{_host_id()} {os.getpid()} {secrets.token_hex(4)}"
        self._clock_file = folder / f".clock-{secrets.token_hex(4)}"
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._heartbeat = threading.Thread(target=self._renew, daemon=True)
        self._heartbeat.start()

    def acquire(self, name: str) -> bool:
        """Acquire a lease; returns False if a live worker holds it."""
        path = self._folder / name
        if not self._create(path):
            if not self._is_expired(path):
                return False
            aside = self._folder / f".expired-{name}-{secrets.token_hex(4)}"
            try:
                os.rename(path, aside)  # succeeds for one worker only
            except OSError:
                return False
            aside.unlink(missing_ok=True)
            if not self._create(path):
                return False
        with self._lock:
            self._held.add(name)
        return True

    def holds(self, name: str) -> bool:
        """Whether this worker still holds a lease, which others may have taken over."""
        return _owner(self._folder / name) == self._owner_id

    def release(self, name: str) -> None:
        """Release a lease, unless another worker has taken it over."""
        with self._lock:
            self._held.discard(name)
        if self.holds(name):
            (self._folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Release all leases and stop renewing."""
        self._stopped.set()
        self._heartbeat.join()
        for name in list(self._held):
            self.release(name)
        self._clock_file.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(self._owner_id)
        except FileExistsError:
            return False
        return True

    def _is_expired(self, path: Path) -> bool:
        self._clock_file.touch()
        try:
            age = self._clock_file.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return False  # released just now; the next attempt will acquire it
        host, _, rest = _owner(path).partition(" ")
        process = rest.partition(" ")[0]
        return age > self._timeout or (host == _host_id() and process.isdecimal() and not _is_alive(int(process)))

    def _renew(self) -> None:
        while not self._stopped.wait(self._renew_interval):
            with self._lock:
                for name in self._held:
                    try:
                        os.utime(self._folder / name)
                    except OSError:
                        continue  # another worker took it over; the work is idempotent


def _owner(path: Path) -> str:
    """The owner of a lease; "" if there is none, or its file is still empty."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _host_id() -> str:
    """Identifies a process namespace: this machine, or a container on it."""
    try:
        return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # the process of another user
    return True
