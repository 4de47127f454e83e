"""A server with 100,000 items in its own process, for load tests. `python -m eval.served` is that process."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from genrec import EmbeddingRanker, read_catalog
from genrec.chat import Advisor
from genrec.pipeline import Pipeline
from genrec.serve import ApiKeys, Limits, Metrics, Service, ServiceConfig, ServingState, bind_socket, create_app, serve
from genrec.store import Store

ITEMS, WIDTH = 100_000, 384
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ServerProcess:
    """A server process on a local port."""

    pid: int
    port: int

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all threads so far, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def resident_bytes(self) -> float:
        """Resident memory in bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="utf-8").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running_server() -> Iterator[ServerProcess]:
    """Serve until the block ends."""
    with subprocess.Popen([sys.executable, "-m", "eval.served"], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield ServerProcess(process.pid, int(next(iter(process.stdout or ()))))
        finally:
            process.terminate()


def main() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((ITEMS, WIDTH), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    item_ids = [f"i{index}" for index in range(ITEMS)]
    titles = [f"Thing {index}" for index in range(ITEMS)]
    catalog = read_catalog(pa.table({"item_id": item_ids, "title": titles, "price": rng.random(ITEMS)}))
    with tempfile.TemporaryDirectory() as folder, Store.open(f"sqlite:///{folder}/events.db") as store:
        embedding = EmbeddingRanker(vectors)
        embedding.enable_quantization()
        service = Service(
            ServingState(Pipeline.from_rankers(catalog, embedding=embedding), store),
            store,
            build_advisor=lambda recommender, k: Advisor(recommender, k=k),
            config=ServiceConfig(),
            metrics=Metrics(),
        )
        listen_socket = bind_socket("127.0.0.1", 0)
        listen_socket.listen()  # before the port is printed, so that clients can connect at once
        print(listen_socket.getsockname()[1], flush=True)
        serve(create_app(service, keys=ApiKeys([], clock=time.monotonic), limits=Limits()), listen_socket)


if __name__ == "__main__":
    main()
