"""The folder of a model, by whichever name it was given."""

from pathlib import Path

from genrec.datasets.hub import find_hub_model
from genrec.datasets.hub_id import HubId
from genrec.datasets.models import MODELS, find_model


def find_model_directory(model: str | Path, cache: Path, *, weights: bool = True) -> Path:
    """The folder of a bundled model or of one from the Hub, verified by its checksums; another path is left unchanged.

    Args:
        model: the name of a bundled model, a Hub id (`ORGANISATION/NAME`, or with `@REVISION`), or a folder.
        cache: the cache folder.
        weights: whether a model from the Hub needs its weights, beside its tokenizer and configuration.

    Raises:
        ModelMissingError: the model has not been downloaded.
        ArtifactError: the model was altered.
    """
    if str(model) in MODELS:
        return find_model(str(model), cache)
    hub_id = HubId.parse(model)
    return Path(model) if hub_id is None else find_hub_model(hub_id, cache, weights=weights)
