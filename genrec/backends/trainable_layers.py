"""The layers of a model that a LoRA adapter can change."""

from typing import Any

import torch

_EXPERT_LAYERS = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def trainable_layers(model: Any) -> set[str]:
    """The names of the linear layers that LoRA can change: those that a text passes through, but the output layer.

    So the vision part of a multimodal model is left out, and layers whose weight is read by other code, such as
    `dt_proj` of Mamba: LoRA would change the merged model there, but not the one in training. Left out are also routers
    that return more than a tensor, output projections of state-space layers, which fused kernels read, and in models
    that keep their experts as one parameter the dense layers with an expert's names, which PEFT would take for experts.
    """
    has_experts = any(".experts." in name and parameter.ndim == 3 for name, parameter in model.named_parameters())
    called: set[str] = set()

    def note(name: str, output: object) -> None:
        if isinstance(output, torch.Tensor):
            called.add(name)

    head = model.get_output_embeddings()
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for parent, owner in model.named_modules()
        for name, module in ((f"{parent}.{own}".strip("."), module) for own, module in owner.named_children())
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and not (name.endswith("out_proj") and hasattr(owner, "A_log"))
        and not (has_experts and name.endswith(_EXPERT_LAYERS))
    ]
    vocab_size = int(model.config.get_text_config(decoder=True).vocab_size)
    rows = [[token % vocab_size for token in range(first, first + 12)] for first in (1, 20)]
    try:
        with torch.inference_mode():
            model.eval()(input_ids=torch.tensor(rows, device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return called
