"""One training step of a LoRA adapter on a tiny model, and the adapter loaded again."""

from pathlib import Path

import numpy as np
import torch

from finetune.config import TrainConfig
from finetune.forward import compute_log_probs, pack_examples
from finetune.model import open_model
from genrec import read_template
from genrec.backends import TransformersBackend
from genrec.evaluation import ModelCheck, WholePaths
from genrec.index import Target, build_example
from genrec.prompting import HuggingFaceTokenizer, Renderer
from genrec.types import FloatArray

_LEARNING_RATE = 0.05  # enough for one step to change every score
_HISTORY = np.array([0, 5, 6])
_LEAST_CHANGE = 0.01  # nats


def train_step(
    folder: Path, tokenizer: HuggingFaceTokenizer, check: ModelCheck, untrained: FloatArray, out: Path
) -> float:
    """Train an adapter for one step, save it, and load it for serving.

    Args:
        folder: the model.
        tokenizer: its tokenizer.
        check: of the model without the adapter.
        untrained: the log-probabilities without the adapter, see `ScoreComparison.expected`.
        out: where the adapter is written.

    Returns:
        The largest difference in nats between the log-probabilities of the model in training and those served.

    Raises:
        GenrecError: the model cannot be trained, or the adapter not be served.
        ArithmeticError: the step changed nothing.
    """
    config = TrainConfig(data="games", protocol="candidates", steps=1, model=str(folder), rank=4)
    model, layout = open_model(config, folder, dtype=torch.float32)
    trained = WholePaths(model)
    renderer = Renderer(check.index.catalog, tokenizer, read_template("next-item"), 1024, config.max_history)
    example = build_example(renderer, check.index, _HISTORY, [Target(2, np.array([1, 2, 3]))])
    packed = pack_examples([example], [True], layout)
    model.train()
    optimizer = torch.optim.SGD([own for own in model.parameters() if own.requires_grad], lr=_LEARNING_RATE)
    for _ in range(2):  # the gradient of A is zero until B has changed
        optimizer.zero_grad()
        loss = -compute_log_probs(model, packed).item_tokens.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    model.save_pretrained(str(out), save_embedding_layers=False)
    served = TransformersBackend(folder, adapter=out, device="cpu", dtype=torch.float32)
    comparison = ModelCheck(served, tokenizer).compare_scores(trained)
    if float(np.abs(comparison.expected - untrained).max()) < _LEAST_CHANGE:
        raise ArithmeticError(f"a training step changed no log-probability by {_LEAST_CHANGE} nats")
    return comparison.difference
