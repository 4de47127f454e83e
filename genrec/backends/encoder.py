"""A sentence encoder: texts to vectors of length 1, by mean pooling over a Transformers model.

Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019, section 3.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from genrec.backends.precision import default_device
from genrec.backends.pretrained import load_pretrained
from genrec.errors import EngineError, ModelMissingError


class SentenceEncoder:
    """A sentence encoder from a folder.

    Args:
        model: a folder with `tokenizer.json` and safetensors.
        device: the torch device; by default the first GPU, else the CPU.
        max_tokens: longer texts are truncated.
        batch_size: how many texts are encoded at once.
        name: how caches name these weights; by default the folder's name.
        trust_remote_code: run Python code of the model, see `load_pretrained`.

    Raises:
        ModelMissingError: the folder does not exist or is damaged, or needs code that is not trusted.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str | None = None,
        max_tokens: int = 128,
        batch_size: int = 64,
        name: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.name = name or Path(model).name
        self._device = torch.device(device) if device else default_device()
        loaded = load_pretrained(AutoModel, model, trust_remote_code=trust_remote_code)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelMissingError(
                f"cannot load the encoder {self.name!r}: {error}; give a folder with tokenizer.json and "
                "safetensors, or fetch the model again"
            ) from error
        self._model = loaded.to(self._device).eval()
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding()
        self._batch_size = batch_size

    def encode(
        self, texts: Sequence[str], *, on_progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float32]:
        """Encode texts.

        Args:
            texts: N texts.
            on_progress: called after each batch with the number of encoded texts and N.

        Returns:
            float32 [N, D], rows of length 1.

        Raises:
            EngineError: the model failed.
        """
        order = sorted(range(len(texts)), key=lambda text: len(texts[text]))
        vectors: NDArray[np.float32] | None = None
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            block = self._encode([texts[text] for text in chosen])
            if vectors is None:
                vectors = np.empty((len(texts), block.shape[1]), dtype=np.float32)
            vectors[chosen] = block
            if on_progress is not None:
                on_progress(start + len(chosen), len(texts))
        return vectors if vectors is not None else np.empty((0, self._model.config.hidden_size), dtype=np.float32)

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        encodings = self._tokenizer.encode_batch(texts)
        token_ids = torch.tensor([encoding.ids for encoding in encodings], device=self._device)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], device=self._device)
        try:
            with torch.inference_mode():
                hidden = self._model(input_ids=token_ids, attention_mask=mask).last_hidden_state.float()
        except RuntimeError as error:
            raise EngineError(f"{self.name} failed on {len(texts)} texts: {error}") from error
        weights = mask[:, :, None].float()
        mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        unit: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        return unit
