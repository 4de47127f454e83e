"""Merge an adapter into its model's weights: python -m finetune.merge ADAPTER --out DIR [--model NAME].

For engines without adapters, and for an adapter that serves all requests. DIR is then the folder of a complete model
with its tokenizer: `genrec recommend --model DIR`, `Settings(model=DIR)`, `vllm serve DIR`.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from genrec.artifact import UserData, artifact_writer, check_writable
from genrec.backends import PROVENANCE_FILE, TransformersBackend, published_name
from genrec.cache import default_cache
from genrec.errors import GenrecError
from genrec.loading import SEMANTIC_IDS_DIRECTORY, find_model_directory
from genrec.prompting import copy_tokenizer
from genrec.settings import LANGUAGE_MODEL

_KIND, _VERSION = "merged model", 1


def merge(adapter: Path, out: Path, *, model: str = LANGUAGE_MODEL, trust_remote_code: bool = False) -> None:
    """Write the merged model in bfloat16, atomically.

    Args:
        adapter: the folder of the adapter.
        out: the folder of the merged model.
        model: the base model: a bundled model's name, a Hub id, or a folder.
        trust_remote_code: run Python code in that folder, if Transformers has no class for the model.

    Raises:
        ModelMissingError: the model or the adapter is missing.
        MismatchError: the adapter was trained for another model.
        ArtifactError: the folder cannot be written, or contains something else.
    """
    import torch

    check_writable(out, kind=_KIND)
    weights = find_model_directory(model, default_cache())
    tuned = TransformersBackend(
        weights, adapter=adapter, dtype=torch.bfloat16, device="cpu", trust_remote_code=trust_remote_code
    )
    with artifact_writer(
        out,
        kind=_KIND,
        version=_VERSION,
        user_data=UserData("aggregate", f"weights of a model that was trained on interactions; see {PROVENANCE_FILE}"),
        metadata={"model": published_name(weights), "adapter": tuned.name},
    ) as folder:
        tuned.model.save_pretrained(folder)
        copy_tokenizer(weights, folder)
        if (adapter / PROVENANCE_FILE).is_file():
            shutil.copyfile(adapter / PROVENANCE_FILE, folder / PROVENANCE_FILE)
        if (adapter / SEMANTIC_IDS_DIRECTORY).is_dir():
            shutil.copytree(adapter / SEMANTIC_IDS_DIRECTORY, folder / SEMANTIC_IDS_DIRECTORY)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and merge."""
    parser = argparse.ArgumentParser(prog="python -m finetune.merge", description=__doc__)
    parser.add_argument("adapter", type=Path, help="the folder of the adapter")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the merged model")
    parser.add_argument(
        "--model", default=LANGUAGE_MODEL, metavar="NAME", help="a bundled model's name, a Hub id, or a folder"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code in the model's folder")
    own = parser.parse_args(arguments)
    try:
        merge(own.adapter, own.out, model=own.model, trust_remote_code=own.trust_remote_code)
    except GenrecError as error:
        sys.exit(f"error: {error}")
    print(own.out)


if __name__ == "__main__":
    main()
