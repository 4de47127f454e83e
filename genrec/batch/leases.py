"""Who works on what, where several work on one folder and any of them may vanish.

A lease is a file that only one can make; its time says that whoever made it is alive. One that was not renewed for a
while, or whose process on this machine is gone, is taken over by one of those who notice. All that is asked of the
folder is that a file can be made by one only and renamed at once, as on every local disk and on NFS from version 3 on;
times are compared with those that the same folder gives, so clocks may differ. In rare cases two may have one lease for
a while (one of them slept, or looked while a third took it over): what leases are for here is that nothing is done
twice for nothing, and what is done twice has to come out alike.
"""

import os
import secrets
import socket
import threading
from pathlib import Path

RENEW_INTERVAL = 4.0  # seconds between two signs of life
LEASE_TIMEOUT = 20.0  # seconds without one


class Leases:
    """The leases of one worker.

    Args:
        folder: where all workers' leases lie; it exists.
        timeout: seconds without a sign of life after which a lease is anybody's.
        renew_interval: seconds between two signs.
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
        """Take a lease; False where somebody alive has it."""
        path = self._folder / name
        if not self._create(path):
            if not self._is_expired(path):
                return False
            aside = self._folder / f".expired-{name}-{secrets.token_hex(4)}"
            try:
                os.rename(path, aside)  # one of those who notice succeeds
            except OSError:
                return False
            aside.unlink(missing_ok=True)
            if not self._create(path):
                return False
        with self._lock:
            self._held.add(name)
        return True

    def holds(self, name: str) -> bool:
        """Whether a lease is still this worker's, and was not taken over."""
        return _owner(self._folder / name) == self._owner_id

    def release(self, name: str) -> None:
        """What was to be done is done, or is left to others."""
        with self._lock:
            self._held.discard(name)
        if self.holds(name):
            (self._folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Give back all."""
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
            return False  # given back this moment; it is free the next time it is asked for
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
                        continue  # somebody took it over: what both write is the same


def _owner(path: Path) -> str:
    """Who made a lease; "" where nobody has it, or it is being made."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _host_id() -> str:
    """What has numbers of processes of its own: this machine, or a container on it."""
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
        return True  # somebody else's
    return True
