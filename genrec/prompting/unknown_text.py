"""Texts that a tokenizer cannot represent: parts of them become its token for the unknown, such as [UNK]."""

from collections.abc import Sequence
from pathlib import Path

import tokenizers

from genrec.errors import ArtifactError

_BLOCK = 4096  # texts


def find_unknown_texts(tokenizer_file: Path, texts: Sequence[str]) -> tuple[str, list[int]]:
    """Find texts with parts that a tokenizer does not know.

    Args:
        tokenizer_file: a `tokenizer.json`.
        texts: N texts.

    Returns:
        The token for the unknown, "" if the tokenizer has none; and the indices of texts that contain it, in order.

    Raises:
        ArtifactError: the file is missing or not a tokenizer.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # tokenizers raises bare Exception
        raise ArtifactError(f"{tokenizer_file} is not a tokenizer: {error}; fetch the model again") from error
    unknown = getattr(tokenizer.model, "unk_token", None)
    unknown_id = getattr(tokenizer.model, "unk_id", None) if unknown is None else tokenizer.token_to_id(unknown)
    if unknown_id is None:
        return "", []
    tokenizer.no_truncation()
    tokenizer.no_padding()
    found = []
    for start in range(0, len(texts), _BLOCK):
        encodings = tokenizer.encode_batch(list(texts[start : start + _BLOCK]), add_special_tokens=False)
        found += [start + place for place, one in enumerate(encodings) if unknown_id in one.ids]
    return str(tokenizer.id_to_token(unknown_id)), found
