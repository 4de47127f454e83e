"""Whether a file of weights is cut, and how large it should be: readers say it with messages about arrays and buffers.

Both formats have a header that names all tensors and their places, then the tensors.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and https://huggingface.co/docs/safetensors.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from genrec.errors import ModelMissingError

_GGUF_MAGIC = b"GGUF"
_LENGTH_BYTES = 8  # of the length of the header, with which a safetensors file begins


class _CutHeaderError(Exception):
    """The file ends within its header."""


def cut_safetensors_error(file: Path) -> ModelMissingError | None:
    """The error for a safetensors file that ends too early; None for a whole file, and for one of another kind."""
    size, needed = file.stat().st_size, None
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        header_size = _LENGTH_BYTES + length
        if size > _LENGTH_BYTES and opened.read(1) != b"{":
            return None
        if _LENGTH_BYTES < header_size <= size:
            opened.seek(_LENGTH_BYTES)
            try:
                tensors = json.loads(opened.read(length))
                ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
                needed = header_size + max(ends, default=0)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                return None  # damaged in another way
    return _cut_error(file, size, needed)


def cut_gguf_error(file: Path) -> ModelMissingError | None:
    """The error for a GGUF file that ends too early; None for a whole file, and for one of another kind."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        if not _GGUF_MAGIC.startswith(opened.read(len(_GGUF_MAGIC))):
            return None
    needed = None
    try:
        if size:
            needed = _needed_size(file)
    except _CutHeaderError:
        pass
    except Exception:  # noqa: BLE001  (of gguf: the file is damaged in another way)
        return None
    return _cut_error(file, size, needed)


def _cut_error(file: Path, size: int, needed: int | None) -> ModelMissingError | None:
    """The error for a file that is smaller than needed; `needed` is None if it ends within its header."""
    if needed is not None and needed <= size:
        return None
    missing = "it ends within its header" if needed is None else f"{needed:,} bytes are needed for its tensors"
    return ModelMissingError(
        f"{file} is cut: it has {size:,} bytes, and {missing}", remedy="download or copy the file again"
    )


def _needed_size(file: Path) -> int:
    """The size in bytes up to the end of the last tensor.

    Raises:
        _CutHeaderError: the file ends before all tensors are named.
    """
    from gguf import GGUFReader

    class SizeReader(GGUFReader):
        """Reads the header, and notes where tensors end instead of reading them."""

        needed = 0

        def _get(self, offset: int, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
            end = int(offset) + np.dtype(dtype).itemsize * int(count)
            if hasattr(self, "data_offset"):  # set when the header is read
                self.needed = max(self.needed, end)
                return np.broadcast_to(np.zeros(1, dtype=dtype), (int(count),))
            if end > len(self.data):
                raise _CutHeaderError
            return super()._get(offset, dtype, count, override_order)

    return SizeReader(file).needed
