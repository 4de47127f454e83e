"""An adapter records how it was trained; serving it with other weights or settings fails or gives a notice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from backend_support import save_adapter
from safetensors.numpy import save_file

from genrec import Catalog, CatalogIndex, GenerativeRanker, GenerativeSettings, Item, TitleIdentifiers, read_template
from genrec.artifact import sha256_of
from genrec.backends.adapter import inspect_adapter
from genrec.backends.provenance import PROVENANCE_FILE, Provenance
from genrec.errors import ArtifactError, MismatchError, TokenizerMismatchError
from genrec.notices import Notice
from genrec.rankers.prior_store import PriorSource
from genrec.testing import ByteTokenizer, TableBackend

PROVENANCE = Provenance(
    "Tiny", {}, "a", "b", "c", "d", "e", "2011-01-01", "2011-12-09", 1, {"steps": 2}, {}, {"ndcg@10": 1.5}
)


def test_provenance_survives_a_round_trip(tmp_path: Path) -> None:
    """An incomplete record describes another adapter."""
    PROVENANCE.write(tmp_path)
    assert Provenance.read(tmp_path) == PROVENANCE
    record = json.loads((tmp_path / PROVENANCE_FILE).read_text(encoding="utf-8"))
    for damaged in (
        json.dumps({**record, "seed": None})[:-9],
        json.dumps({key: record[key] for key in list(record)[1:]}),
    ):
        (tmp_path / PROVENANCE_FILE).write_text(damaged, encoding="utf-8")
        with pytest.raises(ArtifactError, match=r"cannot read .*genrec\.json"):
            Provenance.read(tmp_path)


def test_other_weights_of_the_same_name_are_rejected(tmp_path: Path) -> None:
    """An adapter works only with the weights that it was trained on."""
    base = tmp_path / "Tiny"
    base.mkdir()
    module = "model.layers.0.self_attn.q_proj.weight"
    save_file({module: np.zeros((6, 4), np.float32)}, base / "model.safetensors")
    folder = save_adapter(tmp_path / "tuned")
    assert inspect_adapter(folder, base=base).provenance is None
    provenance = replace(PROVENANCE, base_sha256={"model.safetensors": sha256_of(base / "model.safetensors")})
    provenance.write(folder)
    assert inspect_adapter(folder, base=base).provenance == provenance
    save_file({module: np.ones((6, 4), np.float32)}, base / "model.safetensors")
    with pytest.raises(MismatchError, match=r"was trained on other weights: model.safetensors of '.*Tiny' has SHA-256"):
        inspect_adapter(folder, base=base)


def test_differences_to_training_give_notices() -> None:
    """With another catalog or template, the results still look like a normal list."""
    catalog, tokenizer = Catalog.from_items([Item("a", "Alien"), Item("b", "Heat")]), ByteTokenizer()
    index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
    warm, cold = read_template("next-item"), read_template("cold-start")
    backend, plain = TableBackend(260), TableBackend(260, seed=1)
    same = replace(
        PROVENANCE,
        tokenizer=tokenizer.fingerprint,
        template=warm.fingerprint,
        catalog=catalog.fingerprint,
        index=index.fingerprint,
    )

    def notices(provenance: Provenance | None, prior_backend: TableBackend | None = plain) -> tuple[Notice, ...]:
        backend.provenance = provenance
        settings = GenerativeSettings(strategy="beam")
        prior = PriorSource(backend=prior_backend)
        parts = {"template": warm, "cold_template": cold, "settings": settings, "prior": prior}
        return GenerativeRanker(index, backend, tokenizer, **parts).notices

    assert notices(None) == notices(same) == ()
    for name in ("template", "chat_template", "catalog", "index"):
        (notice,) = notices(replace(same, **{name: "f" * 64}))
        assert (notice.code, notice.fields["name"], notice.fields["trained"]) == ("adapter_differs", name, "f" * 64)
    for name, trained, served in (("prior", 0.0, 1.0), ("max_history", 24, 12)):
        fields = {"name": name, "trained": trained, "served": served}
        assert notices(replace(same, config={name: trained})) == (Notice("adapter_setting_differs", fields),)
    assert notices(same, None) == (Notice("adapter_prior", {"base": "Tiny"}),)
    assert notices(replace(same, chat_template="")) == ()  # that of these prompts
    with pytest.raises(TokenizerMismatchError, match="was trained with tokenizer ffffffffffff"):
        notices(replace(same, tokenizer="f" * 64))
