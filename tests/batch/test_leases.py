"""A lease belongs to one live worker, and expires with it."""

import subprocess
import sys
import time
from pathlib import Path

from genrec.batch.leases import Leases


def test_expired_lease_is_taken_over(tmp_path: Path) -> None:
    """Somebody alive keeps it however long it takes; of somebody who is gone it is free, elsewhere after a while."""
    first, second = (Leases(tmp_path, timeout=0.5, renew_interval=0.1) for _ in range(2))
    assert first.acquire("a")
    assert not second.acquire("a")
    time.sleep(1.0)
    assert not second.acquire("a"), "its owner is alive"
    elsewhere = tmp_path / "b"
    elsewhere.write_text("another-machine 1 x", encoding="utf-8")
    assert not second.acquire("b")
    time.sleep(0.7)
    assert second.acquire("b"), "nobody renewed it"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = (tmp_path / "a").read_text(encoding="utf-8").partition(" ")[0]
    (tmp_path / "c").write_text(f"{host} {gone.pid} x", encoding="utf-8")
    assert first.acquire("c"), "its process is gone"
    (tmp_path / "c").write_text("somebody else's now", encoding="utf-8")
    first.release("c")
    assert (tmp_path / "c").is_file(), "what was taken over is not given back"
    (tmp_path / "c").unlink()
    first.close()
    second.close()
    assert not list(tmp_path.iterdir())
