"""Adapters are checked by their files before they are loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_support import MODULE, save_adapter
from safetensors.numpy import save_file

from genrec.backends.adapter import inspect_adapter
from genrec.errors import GenrecError, MismatchError, ModelMissingError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "Tiny"
    folder.mkdir()
    save_file({f"{MODULE}.weight": np.zeros((6, 4), np.float32)}, folder / "model.safetensors")
    return folder


def test_adapter_name_depends_on_its_weights(base: Path, tmp_path: Path) -> None:
    """Two adapters in folders of the same name must not share cache entries."""
    one = inspect_adapter(save_adapter(tmp_path / "a" / "tuned"), base=base, max_rank=2)
    same = inspect_adapter(save_adapter(tmp_path / "b" / "tuned"), base=base, max_rank=2)
    other = inspect_adapter(save_adapter(tmp_path / "c" / "tuned", rank=1), base=base, max_rank=2)
    assert one.name.startswith("tuned-")
    assert one.name == same.name != other.name


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"base_model_name_or_path": "Example/Other"},
            MismatchError,
            "trained for 'Example/Other', not for the model '.*/Tiny'",
        ),
        (
            {"rank": 9},
            MismatchError,
            "has rank 9, but the engine supports ranks up to 8; start it with max_lora_rank=9",
        ),
        ({"rank_pattern": {"q_proj": 64}}, MismatchError, "has rank 64"),
        ({"modules_to_save": ["lm_head"]}, MismatchError, "uses modules_to_save.*merge it"),
        ({"trainable_token_indices": [5]}, MismatchError, "uses trainable_token_indices"),
        ({"weights": ["base_model.model.lm_head.weight"]}, MismatchError, "contains base_model.model.lm_head.weight"),
        ({"shape": (6, 5)}, MismatchError, r"of shape \[2, 5\] .* '.*/Tiny' is \[6, 4\]"),
        ({"shape": (7, 4)}, MismatchError, r"of shape \[7, 2\] .* '.*/Tiny' is \[6, 4\]"),
        ({"r": "many"}, ModelMissingError, "cannot read the adapter '.*/tuned'"),
    ],
    ids=["base", "rank", "rank of a module", "whole modules", "tokens", "other weight", "in", "out", "not a number"],
)
def test_unsupported_adapters_are_rejected_with_the_reason(
    base: Path, tmp_path: Path, changes: dict[str, Any], error: type[GenrecError], message: str
) -> None:
    """vLLM fails on these at the first request, or serves another model."""
    with pytest.raises(error, match=message):
        inspect_adapter(save_adapter(tmp_path / "tuned", **changes), base=base, max_rank=8)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_truncated_adapters_are_rejected(base: Path, tmp_path: Path, name: str) -> None:
    """Half an adapter is another model."""
    folder = save_adapter(tmp_path / "tuned")
    (folder / name).write_bytes((folder / name).read_bytes()[:20])
    with pytest.raises(ModelMissingError, match=f"cannot read the adapter '{folder}'"):
        inspect_adapter(folder, base=base, max_rank=8)
    (folder / name).unlink()
    with pytest.raises(ModelMissingError, match=f"cannot read the adapter '{folder}'"):
        inspect_adapter(folder, base=base, max_rank=8)
