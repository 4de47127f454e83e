"""The result of a run: the folder of an adapter, with its provenance, model card and validation curve."""

import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict

from finetune.config import TrainConfig
from finetune.data import TrainingData
from finetune.trainer import CUTOFFS
from genrec import CatalogIndex, Template
from genrec.artifact import UserData, write_json
from genrec.backends import Provenance, TrainingSource, file_hashes, inspect_adapter, published_name
from genrec.index import SemanticIdentifiers
from genrec.loading import SEMANTIC_IDS_DIRECTORY

_CARD_TEMPLATE = """---
base_model: {base}
library_name: peft
license: {license}
tags: [recommendation, lora, genrec]
---

# LoRA adapter for {base}

Trained by genrec on `{data}` (digest {digest}), events from {first} to {last}, with the objective `{objective}`:
{targets:,} targets in {tokens:,} tokens, step {step} of {steps}. It ranks the items of one catalog with one template.
Their hashes are in `genrec.json` and are checked when the adapter is loaded.

Validation: the last known item of {users} users among {others} random items: {ndcg}.

It was trained on the interactions of {trained_users:,} users with these items, and knows nothing about others. What it
learned from a user cannot be removed: to forget a user, train a new adapter without that user's interactions. Text that
it generates without genrec's search may name items that do not exist.
"""


def save_adapter(
    folder: Path, model: Any, provenance: Provenance, semantic_ids: SemanticIdentifiers | None, *, num_negatives: int
) -> None:
    """Write weights in bfloat16, `genrec.json`, a model card, and semantic ids if there are any, atomically."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new = Path(temporary) / folder.name
        _save_weights(new, model, provenance)
        provenance.write(new)
        (new / "README.md").write_text(_render_card(provenance, num_negatives), encoding="utf-8")
        if semantic_ids is not None:
            semantic_ids.save(new / SEMANTIC_IDS_DIRECTORY)
        for path in new.iterdir():
            path.chmod(0o755 if path.is_dir() else 0o644)  # another account may serve it
        os.replace(new, folder)


def _save_weights(folder: Path, model: Any, provenance: Provenance) -> None:
    model.peft_config["default"].base_model_name_or_path = provenance.base
    # No embeddings were trained; without this argument PEFT asks the Hub about them.
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in own.items()}
    model.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)


def _render_card(provenance: Provenance, num_negatives: int) -> str:
    config, metrics = provenance.config, provenance.metrics
    return _CARD_TEMPLATE.format(
        base=provenance.base,
        license="apache-2.0" if provenance.base.startswith("SmolLM2") else "other",
        data=config["data"],
        digest=provenance.data[:12],
        first=provenance.first,
        last=provenance.last,
        objective=config["objective"],
        targets=int(metrics["targets"]),
        tokens=int(metrics["tokens"]),
        step=int(metrics["step"]),
        steps=config["steps"],
        users=config["evaluate_users"],
        others=num_negatives,
        trained_users=provenance.user_data["users"],
        ndcg=", ".join(f"NDCG@{k} {metrics[f'ndcg@{k}']:.1f}" for k in CUTOFFS),
    )


def build_provenance(
    config: TrainConfig,
    training_data: TrainingData,
    weights: Path,
    index: CatalogIndex,
    template: Template,
    metrics: dict[str, float],
) -> Provenance:
    """Describe how an adapter was trained."""
    first, last = training_data.time_range
    users = len(training_data.interactions.user_ids)
    contains = "weights trained on interactions; to forget a user, train again without them"
    return Provenance(
        base=published_name(weights),
        base_sha256=file_hashes(weights),
        tokenizer=index.tokenizer_fingerprint,
        template=template.fingerprint,
        catalog=training_data.catalog.fingerprint,
        index=index.fingerprint,
        data=training_data.digest,
        first=first,
        last=last,
        train=training_data.interactions.fingerprint,
        earlier=() if config.start is None else _sources_of(Path(config.start), weights),
        seed=config.seed,
        config=config.model_dump(mode="json"),
        versions={name: version(name) for name in ("genrec", "torch", "transformers", "peft")},
        metrics=metrics,
        trained_at=_first_read_at(config, training_data, weights),
        user_data=UserData("aggregate", contains, users).to_json(),
    )


def _first_read_at(config: TrainConfig, training_data: TrainingData, weights: Path) -> float | None:
    """When the first interactions were read, also for the adapter it continues from; None if that is not known."""
    if config.start is None:
        return training_data.read_at
    provenance = inspect_adapter(Path(config.start), base=weights).provenance
    if provenance is None or provenance.trained_at is None:
        return None
    return min(training_data.read_at, provenance.trained_at)


def _sources_of(start: Path, weights: Path) -> tuple[TrainingSource, ...]:
    """What an adapter was trained on; a source without data if that is not recorded."""
    provenance = inspect_adapter(start, base=weights).provenance
    return (TrainingSource(None, "", None, None, None),) if provenance is None else provenance.sources


def write_curve(path: Path, curve: list[dict[str, float]]) -> None:
    """Write the validation metrics against the training tokens as JSON, and as a plot beside it."""
    from matplotlib.figure import Figure

    write_json(path, curve)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for k in CUTOFFS:
        axes.plot(
            [point["tokens"] / 1e6 for point in curve], [point[f"ndcg@{k}"] for point in curve], label=f"NDCG@{k}"
        )
    axes.set_xlabel("training tokens, in millions")
    axes.set_ylabel("validation NDCG, times 100")
    axes.legend()
    figure.savefig(path.with_suffix(".png"), dpi=150)
