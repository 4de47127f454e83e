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

RENEWED = 4.0  # seconds between two signs of life
EXPIRED = 20.0  # seconds without one


class Leases:
    """The leases of one worker.

    Args:
        folder: where all workers' leases lie; it exists.
        expired: seconds without a sign of life after which a lease is anybody's.
        renewed: seconds between two signs.
    """

    def __init__(self, folder: Path, *, expired: float = EXPIRED, renewed: float = RENEWED) -> None:
        self._folder, self._expired, self._renewed = folder, expired, renewed
        self._mine: set[str] = set()
        self._me = f"{_host()} {os.getpid()} {secrets.token_hex(4)}"
        self._clock = folder / f".clock-{secrets.token_hex(4)}"
        self._lock, self._over = threading.Lock(), threading.Event()
        self._beat = threading.Thread(target=self._renew, daemon=True)
        self._beat.start()

    def take(self, name: str) -> bool:
        """Take a lease; False where somebody alive has it."""
        path = self._folder / name
        if not self._make(path):
            if not self._is_expired(path):
                return False
            aside = self._folder / f".expired-{name}-{secrets.token_hex(4)}"
            try:
                os.rename(path, aside)  # one of those who notice succeeds
            except OSError:
                return False
            aside.unlink(missing_ok=True)
            if not self._make(path):
                return False
        with self._lock:
            self._mine.add(name)
        return True

    def has(self, name: str) -> bool:
        """Whether a lease is still this worker's, and was not taken over."""
        return _owner(self._folder / name) == self._me

    def give_back(self, name: str) -> None:
        """What was to be done is done, or is left to others."""
        with self._lock:
            self._mine.discard(name)
        if self.has(name):
            (self._folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Give back all."""
        self._over.set()
        self._beat.join()
        for name in list(self._mine):
            self.give_back(name)
        self._clock.unlink(missing_ok=True)

    def _make(self, path: Path) -> bool:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(self._me)
        except FileExistsError:
            return False
        return True

    def _is_expired(self, path: Path) -> bool:
        self._clock.touch()
        try:
            age = self._clock.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return False  # given back this moment; it is free the next time it is asked for
        host, _, rest = _owner(path).partition(" ")
        process = rest.partition(" ")[0]
        return age > self._expired or (host == _host() and process.isdecimal() and not _is_alive(int(process)))

    def _renew(self) -> None:
        while not self._over.wait(self._renewed):
            with self._lock:
                for name in self._mine:
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


def _host() -> str:
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
