"""A batch run on a Ray cluster: an actor pool holds the engines, Ray schedules parts, retries and scales.

`genrec.batch.run` writes each part once, so an actor that dies, or a part that Ray hands out twice, changes nothing.

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

_MAX_RETRIES = 3  # of a part whose actor died
_POLL_INTERVAL = 5.0  # seconds until parts that others are making are looked at again


class PartActor:
    """One actor: an engine, and the parts that it is handed."""

    def __init__(self, folder: str) -> None:
        from genrec.batch.leases import Leases
        from genrec.batch.run import BatchRun
        from genrec.cli.batch_tasks import task_from_run

        self._run = BatchRun.open(Path(folder))
        self._task = task_from_run(self._run)
        self._leases = Leases(Path(folder) / "leases")
        atexit.register(self._leases.close)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make parts; of each whether it was made here."""
        return {
            **batch,
            "made": [self._run.process_part(int(number), self._task, self._leases) for number in batch["part"]],
        }


def run_on_ray(
    batch_run: "BatchRun", address: str, workers: int, on_progress: "Callable[[RunStatus], None]", *, needs_gpu: bool
) -> None:
    """Make every part that is missing.

    Args:
        batch_run: the run; its folder is shared by all machines, and so are its rows.
        address: of the cluster; `local` starts one here.
        workers: actors at most; Ray starts fewer where there is no room.
        on_progress: told how far it is.
        needs_gpu: give each actor a GPU, where the cluster has any.

    Raises:
        ModelMissingError: Ray is not installed.
        EngineError: the cluster cannot be reached, or gave up; what is done stays done.
    """
    try:
        import ray
    except ImportError as error:
        raise ModelMissingError("Ray is not installed; run: pip install 'genrec[ray]'") from error
    batch_run.prepare()
    try:
        ray.init(address=address, log_to_driver=False)
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EngineError(f"no Ray cluster answers at {address!r}: {error}; start one, or take --ray local") from error
    try:
        while missing := batch_run.missing_parts():
            parts = ray.data.from_items([{"part": number} for number in missing], override_num_blocks=len(missing))
            made = parts.map_batches(
                PartActor,
                fn_constructor_args=(str(batch_run.folder.resolve()),),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
                num_gpus=1 if needs_gpu and there.get("GPU") else None,
                max_task_retries=_MAX_RETRIES,
                max_restarts=_MAX_RETRIES,
            )
            own = False
            for row in made.iter_rows():
                own = own or row["made"]
                on_progress(batch_run.status())
            if not own:  # all that is missing is in the making elsewhere
                time.sleep(_POLL_INTERVAL)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", error)
        if isinstance(cause, GenrecError):
            raise cause from error
        said = str(error).strip().rpartition("\n")[2]
        raise EngineError(f"the Ray cluster gave up: {said}; resume the run, what is done stays done") from error
    finally:
        ray.shutdown()
    batch_run.write_summary()
