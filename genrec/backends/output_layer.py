"""What some architectures do with the logits of their output layer: a scale, a soft cap."""

from collections.abc import Callable

import torch
from transformers import PreTrainedConfig


def logits_transform(config: PreTrainedConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function from the output layer's values to the model's logits, by the names that configurations have for it.

    The backend compares the result with the model's own logits, so an architecture with another function is noticed.
    """
    divisor = float(getattr(config, "logits_scaling", None) or 1.0)  # Granite
    factor = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma

    def transform(values: torch.Tensor) -> torch.Tensor:
        logits = values if factor == divisor else values * (factor / divisor)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    return transform
