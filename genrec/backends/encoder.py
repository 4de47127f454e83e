"""A sentence encoder: texts to vectors of length 1, by mean pooling over a Transformers model.

A vector depends on its text alone, not on the texts beside it: texts of the same number of tokens are encoded together,
without padding, and every pass has as many texts, because the kernel of a matrix product depends on the exact shape.

Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019, section 3.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from genrec.backends.precision import find_device
from genrec.backends.pretrained import load_pretrained
from genrec.errors import EngineError, ModelMissingError

_TOKENIZE_BLOCK = 4096  # texts
_BATCH_SIZE_CPU = 8  # a query alone is encoded as so many texts; for two, rows of a product differed by their places
_BATCH_SIZE_GPU = 64
_MAX_UNKNOWN = 0.3  # share of unknown tokens in a text that can be read, such as two words and an emoji


class SentenceEncoder:
    """A sentence encoder from a folder.

    Args:
        model: a folder with `tokenizer.json` and safetensors.
        device: the torch device; by default the first GPU, else the CPU.
        max_tokens: longer texts are truncated.
        batch_size: how many texts each pass encodes; a smaller pass is filled up. By default 8 on a CPU, else 64.
        name: how caches name these weights; by default the folder's name.
        trust_remote_code: run Python code of the model, see `load_pretrained`.
        zero_unreadable: the vector of a text is 0 if over 30 % of its tokens are unknown to the tokenizer.

    Raises:
        EngineError: this machine does not have the device.
        ModelMissingError: the folder does not exist or is damaged, or needs code that is not trusted.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str | None = None,
        max_tokens: int = 128,
        batch_size: int | None = None,
        name: str | None = None,
        trust_remote_code: bool = False,
        zero_unreadable: bool = False,
    ) -> None:
        self.name, self.zero_unreadable = name or Path(model).name, zero_unreadable
        self._device = find_device(device)
        loaded = load_pretrained(AutoModel, model, trust_remote_code=trust_remote_code)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelMissingError(
                f"cannot load the encoder {self.name!r}: {error}; give a folder with tokenizer.json and "
                "safetensors, or fetch the model again"
            ) from error
        self._model = loaded.to(self._device).eval()
        unknown = getattr(self._tokenizer.model, "unk_token", None) if zero_unreadable else None
        self._unknown_id = None if unknown is None else self._tokenizer.token_to_id(unknown)
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.no_padding()
        default = _BATCH_SIZE_CPU if self._device.type == "cpu" else _BATCH_SIZE_GPU
        self._batch_size = default if batch_size is None else batch_size

    def encode(
        self, texts: Sequence[str], *, on_progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float32]:
        """Encode texts.

        Args:
            texts: N texts.
            on_progress: called after each batch with the number of encoded texts, estimated if some are equal, and N.

        Returns:
            float32 [N, D], rows of length 1, or 0 with `zero_unreadable`; a row depends on its text alone, so equal
            texts have equal rows.

        Raises:
            EngineError: the model failed.
        """
        number_of: dict[tuple[int, ...], int] = {}  # the distinct token sequences, in order
        numbers = [number_of.setdefault(tokens, len(number_of)) for tokens in self._tokenize(texts)]
        sequences = list(number_of)
        order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
        vectors = np.empty((len(sequences), self._model.config.hidden_size), dtype=np.float32)
        done = 0
        for _, group in itertools.groupby(order, key=lambda number: len(sequences[number])):
            same_length = list(group)
            for start in range(0, len(same_length), self._batch_size):
                chosen = same_length[start : start + self._batch_size]
                vectors[chosen] = self._encode([sequences[number] for number in chosen])
                done += len(chosen)
                if on_progress is not None:  # equal texts are encoded once
                    on_progress(done * len(texts) // len(sequences), len(texts))
        if self._unknown_id is not None:
            vectors[[tokens.count(self._unknown_id) > _MAX_UNKNOWN * len(tokens) for tokens in sequences]] = 0
        return vectors[numbers]

    def _tokenize(self, texts: Sequence[str]) -> Iterator[tuple[int, ...]]:
        for start in range(0, len(texts), _TOKENIZE_BLOCK):
            block = list(texts[start : start + _TOKENIZE_BLOCK])
            yield from (tuple(encoding.ids) for encoding in self._tokenizer.encode_batch(block))

    def _encode(self, sequences: list[tuple[int, ...]]) -> NDArray[np.float32]:
        """The vectors of texts of the same number of tokens."""
        filled = [*sequences, *[sequences[0]] * (self._batch_size - len(sequences))]
        token_ids = torch.tensor(filled, device=self._device)
        try:
            with torch.inference_mode():
                output = self._model(input_ids=token_ids, attention_mask=torch.ones_like(token_ids))
        except RuntimeError as error:
            raise EngineError(f"{self.name} failed on {len(sequences)} texts: {error}") from error
        mean = output.last_hidden_state.float().mean(dim=1)
        unit: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        return unit[: len(sequences)]
