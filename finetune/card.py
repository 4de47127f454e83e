"""What a run ends with: an adapter's folder that says what it is."""

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
from genrec.artifact import write_json
from genrec.backends.provenance import Provenance, file_hashes
from genrec.index.semantic_ids import SemanticIdentifiers
from genrec.loading import SEMANTIC_IDS_DIRECTORY

_CARD_TEMPLATE = """---
base_model: {base}
library_name: peft
license: {license}
tags: [recommendation, lora, genrec]
---

# A recommender's adapter for {base}

Trained by genrec on `{data}` (digest {digest}), events from {first} to {last}, by the objective `{objective}`:
{targets:,} targets in {tokens:,} tokens, step {step} of {steps}. It ranks the items of one catalog behind one template,
whose hashes are in `genrec.json`; loading compares them.

Validation, {users} people's last known item among {others} random ones: {ndcg}.

It has seen what the people of these data took, and ranks what they would take; it knows nothing of anybody else, and
what it writes without genrec's search need not exist.
"""


def save_adapter(
    folder: Path, model: Any, provenance: Provenance, semantic_ids: SemanticIdentifiers | None, *, num_negatives: int
) -> None:
    """Write weights in bfloat16, `genrec.json`, a model card, and codes where there are any, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as aside:
        whole = Path(aside) / folder.name
        _save_weights(whole, model, provenance)
        provenance.write(whole)
        (whole / "README.md").write_text(_render_card(provenance, num_negatives), encoding="utf-8")
        if semantic_ids is not None:
            semantic_ids.save(whole / SEMANTIC_IDS_DIRECTORY)
        for path in whole.iterdir():
            path.chmod(0o755 if path.is_dir() else 0o644)  # whoever serves it need not be who trained it
        os.replace(whole, folder)


def _save_weights(folder: Path, model: Any, provenance: Provenance) -> None:
    model.peft_config["default"].base_model_name_or_path = provenance.base
    half = {name: one.to(torch.bfloat16) for name, one in get_peft_model_state_dict(model).items()}
    # No embeddings were trained; left to itself, PEFT asks a model hub about that.
    model.save_pretrained(str(folder), state_dict=half, save_embedding_layers=False)


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
    """What a run is made of."""
    first, last = training_data.time_range
    return Provenance(
        base=weights.name,
        base_sha256=file_hashes(weights),
        tokenizer=index.tokenizer_fingerprint,
        template=template.fingerprint,
        catalog=training_data.catalog.fingerprint,
        index=index.fingerprint,
        data=training_data.digest,
        first=first,
        last=last,
        seed=config.seed,
        config=config.model_dump(mode="json"),
        versions={name: version(name) for name in ("genrec", "torch", "transformers", "peft")},
        metrics=metrics,
    )


def write_curve(path: Path, curve: list[dict[str, float]]) -> None:
    """Write the validation ranking against what was learned, as JSON, and beside it as a picture."""
    from matplotlib.figure import Figure

    write_json(path, curve)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for k in CUTOFFS:
        axes.plot([one["tokens"] / 1e6 for one in curve], [one[f"ndcg@{k}"] for one in curve], label=f"NDCG@{k}")
    axes.set_xlabel("million tokens learned")
    axes.set_ylabel("validation, times 100")
    axes.legend()
    figure.savefig(path.with_suffix(".png"), dpi=150)
