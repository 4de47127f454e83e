"""Errors of huggingface_hub, in terms of genrec: what failed, where, and what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genrec.datasets.hub_id import HubId
from genrec.errors import ArtifactError, EngineError, GenrecError, InputError, ModelMissingError, format_error


@contextmanager
def explained_errors(hub_id: HubId) -> Iterator[None]:
    """Turn errors of huggingface_hub into ours; the token is in none of their messages."""
    from huggingface_hub import constants, errors

    hub, again = constants.ENDPOINT, f"`genrec model get {hub_id}`"
    try:
        yield
    except GenrecError:
        raise
    except errors.GatedRepoError as error:
        raise ModelMissingError(
            f"the model {str(hub_id)!r} is gated",
            remedy=f"accept its terms at {hub}/{hub_id.name}, and set HF_TOKEN to a token of that account",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelMissingError(
            f"the model {str(hub_id)!r} is not bundled, not a folder, and not on {hub}",
            remedy="check the name; for a private model set HF_TOKEN to a token that may read it",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelMissingError(
            f"the model {hub_id.name!r} on {hub} has no revision {hub_id.revision!r}",
            remedy="name a branch, a tag or a commit after the @",
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise ModelMissingError(
            f"the model {str(hub_id)!r} is not in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE disables downloads",
            remedy=f"unset HF_HUB_OFFLINE, or run {again} where the Hub can be reached and copy that folder",
        ) from error
    except errors.HFValidationError as error:
        raise InputError(
            f"{str(hub_id)!r} is not the id of a model on the Hub: {error}; write ORGANISATION/NAME"
        ) from error
    except Exception as error:  # of three HTTP libraries, by the version of huggingface_hub
        raise _transfer_error(hub_id, error, hub, constants.HF_HUB_CACHE) from error


def _transfer_error(hub_id: HubId, error: Exception, hub: str, folder: str) -> GenrecError:
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    number = next((cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno), None)
    local = next((cause for cause in causes if isinstance(cause, OSError) and cause.filename is not None), None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        _remove_partial_files(hub_id, Path(folder))
        return ArtifactError(
            f"cannot save {hub_id} in {folder}: the disk is full",
            remedy="free some space, or set HF_HOME to a folder on another disk",
        )
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return ArtifactError(
            f"cannot save {hub_id} in {folder}: it is not writable", remedy="set HF_HOME to a writable folder"
        )
    if local is not None:  # sockets have no file names
        return ArtifactError(
            f"cannot save {hub_id} in {folder}: {format_error(local)}", remedy="set HF_HOME to a writable folder"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = f"it answered {status}" if status else f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return EngineError(
        f"cannot download {hub_id} from {hub}: {reason}",
        remedy="check the network, HF_ENDPOINT and the proxy, and try again; finished files are kept",
    )


def _remove_partial_files(hub_id: HubId, cache: Path) -> None:
    for path in (cache / f"models--{hub_id.name.replace('/', '--')}" / "blobs").glob("*.incomplete"):
        path.unlink(missing_ok=True)
