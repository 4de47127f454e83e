"""Batch runs on a Ray cluster: a pool of actors holds the engines; Ray schedules parts, retries and scales.

Parts are idempotent (see `genrec.batch.run`), so a killed actor, or a part that Ray schedules twice, changes nothing.

Source of the pattern: Ray Data's documentation of stateful transforms (`map_batches` with a class).
"""

import atexit
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.errors import EngineError, GenrecError, ModelMissingError

if TYPE_CHECKING:
    from genrec.batch.run import BatchRun, RunStatus

_MAX_RETRIES = 3  # retries of a part whose actor died
_POLL_INTERVAL = 5.0  # seconds between checks for parts that other workers finish


class PartActor:
    """A Ray actor: an engine that processes parts."""

    def __init__(self, folder: str) -> None:
        from genrec.batch.leases import Leases
        from genrec.batch.run import BatchRun
        from genrec.cli.batch_tasks import task_from_run

        self._run = BatchRun.open(Path(folder))
        self._task = task_from_run(self._run)
        self._leases = Leases(Path(folder) / "leases")
        atexit.register(self._leases.close)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Process parts; the column `made` says whether this actor wrote them."""
        return {
            **batch,
            "made": [self._run.process_part(int(number), self._task, self._leases) for number in batch["part"]],
        }


def run_on_ray(
    batch_run: "BatchRun", address: str, workers: int, on_progress: "Callable[[RunStatus], None]", *, needs_gpu: bool
) -> None:
    """Process the missing parts of a run on a cluster.

    Args:
        batch_run: the run; all machines must share its folder and its input files.
        address: address of the cluster; `local` starts one on this machine.
        workers: maximum number of actors; Ray starts fewer if resources are short.
        on_progress: called with the status after each part.
        needs_gpu: reserve a GPU for each actor, if the cluster has GPUs.

    Raises:
        ModelMissingError: Ray is not installed.
        EngineError: the cluster cannot be reached, or failed; finished parts are kept.
    """
    try:
        import ray
    except ImportError as error:
        raise ModelMissingError("Ray is not installed; run: pip install 'genrec[ray]'") from error
    batch_run.prepare()
    try:
        ray.init(address=address, log_to_driver=False)
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EngineError(
            f"cannot connect to a Ray cluster at {address!r}: {error}; start one, or use --ray local"
        ) from error
    try:
        while missing := batch_run.missing_parts():
            parts = ray.data.from_items([{"part": number} for number in missing], override_num_blocks=len(missing))
            made = parts.map_batches(
                PartActor,
                fn_constructor_args=(str(batch_run.folder.resolve()),),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
                num_gpus=1 if needs_gpu and resources.get("GPU") else None,
                max_task_retries=_MAX_RETRIES,
                max_restarts=_MAX_RETRIES,
            )
            any_made = False
            for row in made.iter_rows():
                any_made = any_made or row["made"]
                on_progress(batch_run.status())
            if not any_made:  # other workers hold all missing parts
                time.sleep(_POLL_INTERVAL)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", error)
        if isinstance(cause, GenrecError):
            raise cause from error
        last_line = str(error).strip().rpartition("\n")[2]
        raise EngineError(f"the Ray cluster failed: {last_line}; resume the run (finished parts are kept)") from error
    finally:
        ray.shutdown()
    batch_run.write_summary()
