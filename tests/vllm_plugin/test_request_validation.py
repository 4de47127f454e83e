"""Laws of request validation: a constraint that cannot be applied refuses its request, and the engine goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here; its CPU build runs these laws")

from vllm import LLM
from vllm_requests import REFUSAL, params, written

from genrec.errors import InputError
from genrec.vllm_plugin.processor import CatalogLogitsProcessor
from genrec.vllm_plugin.registry import CatalogRegistry

pytestmark = [pytest.mark.model, pytest.mark.vllm]


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"genrec_catalog": "nowhere"}, "'nowhere'; choose one of the catalogs in GENREC_CATALOGS: retail, shop"),
    ({"genrec_catalog": "../retail"}, "choose one of the catalogs"),
    ({"genrec_catalog": ["retail"]}, "choose one of the catalogs"),
    ({"genrec_catalog": "shop", "genrec_form": "poem"}, "genrec_form is 'poem'; choose one of item, list, text"),
    ({"genrec_catalog": "shop", "genrec_k": 0}, "^genrec_k is 0; give a whole number"),
    ({"genrec_catalog": "shop", "genrec_k": 1.5}, "k is 1.5"),
    ({"genrec_catalog": "shop"}, "k is 10, but 4 of 4 items are allowed"),
    ({"genrec_catalog": "shop", "genrec_k": 3, "genrec_deny": ["i0", "i1"]}, "k is 3, but 2 of 4 items are allowed"),
    ({"genrec_catalog": "shop", "genrec_k": 1, "genrec_allow": ["i0", "i9"]}, "item 'i9', which is not in"),
    ({"genrec_catalog": "shop", "genrec_k": 1, "genrec_deny": "i0"}, "genrec_deny is 'i0'; give a list"),
    ({"genrec_catalog": "shop", "genrec_filter": "x"}, "'genrec_filter' is not a key of genrec"),
    ({"genrec_catalogue": "shop"}, "'genrec_catalogue' is not a key of genrec; use the keys genrec_catalog"),
    ({"Genrec_Catalog": "shop"}, "'Genrec_Catalog' is not a key of genrec"),
    ({" genrec_catalog": "shop"}, "' genrec_catalog' is not a key of genrec"),
    ({"genrec_k": 3}, "genrec_catalog is missing"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "genrec_allow": []}, "none of 4 items is allowed; allow"),
    ({"genrec_catalog": "shop", "genrec_k": 1, "genrec_deny": ["i9"]}, "not in catalog 'shop'"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "temperature": float("nan")}, "temperature is nan"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "temperature": float("inf")}, "temperature is inf"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "temperature": 1e300}, "temperature is 1e\\+300"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "repetition_penalty": 1.2}, "repetition_penalty is 1.2"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "presence_penalty": -0.5}, "presence_penalty is -0.5"),
    ({"genrec_catalog": "shop", "genrec_form": "text", "frequency_penalty": 2.0}, "frequency_penalty is 2.0"),
    ({"genrec_catalog": "retail", "max_tokens": 16}, r"max_tokens is 16, but a list of 10 .* set max_tokens to"),
    ({"genrec_catalog": "retail", "genrec_k": 100, "max_tokens": None}, "the model's context is 512; ask for fewer"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "stop": ["\n"]}, "stop contains '\\\\n', .* 'item'"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "stop_token_ids": [0, 198]}, "stop_token_ids contains 198"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "logit_bias": {5: 1.0}}, "logit_bias is .* conflicts with"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "allowed_token_ids": [5]}, "allowed_token_ids is"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "bad_words": ["Lamp"]}, "bad_words is"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "min_tokens": 2}, "min_tokens is 2"),
    ({"genrec_catalog": "shop", "genrec_form": "item", "ignore_eos": True}, "ignore_eos is True"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), REFUSALS)
def test_an_invalid_constraint_fails_its_request(
    engine: LLM, prompt: dict[str, list[int]], settings: dict[str, Any], message: str
) -> None:
    """A constraint that is silently dropped allows anything; one that ends the engine fails every request."""
    with pytest.raises(REFUSAL, match=message):
        engine.generate([prompt], [params(**settings)], use_tqdm=False)
    (answer,) = written(engine, [prompt], [params(genrec_catalog="shop", genrec_form="item")])
    assert answer


def test_penalties_of_a_model_do_not_change_its_lists(
    engine: LLM, prompt: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `generation_config.json` sets penalties without a word, and they rank titles by what the prompt says."""
    constraint = {"genrec_catalog": "retail", "genrec_k": 3}
    (plain,) = written(engine, [prompt], [params(**constraint)])
    penalties = {"repetition_penalty": 1.3, "presence_penalty": 0.7, "frequency_penalty": 0.3}
    model = engine.llm_engine.vllm_config.model_config
    monkeypatch.setattr(model, "override_generation_config", penalties)
    monkeypatch.setattr(engine.llm_engine.input_processor, "genrec_default_params", penalties, raising=False)
    assert model.get_diff_sampling_param() | penalties == model.get_diff_sampling_param()
    (penalised,) = written(engine, [prompt], [params(**constraint, **penalties)])
    assert penalised == plain
    with pytest.raises(REFUSAL, match=r"repetition_penalty is 1\.4"):
        engine.generate([prompt], [params(**constraint, repetition_penalty=1.4)], use_tqdm=False)
    free = params(max_tokens=12, repetition_penalty=1.3)  # other requests keep theirs
    assert written(engine, [prompt], [free]) != written(engine, [prompt], [params(max_tokens=12)])


def test_arguments_of_other_logits_processors_are_refused(
    engine: LLM, prompt: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another processor that runs behind the constraint could allow a token that no title has."""
    foreign = params(genrec_catalog="shop", genrec_form="item")
    foreign.extra_args = {**(foreign.extra_args or {}), "target_token": 5}
    assert written(engine, [prompt], [foreign])[0]  # nobody reads it
    config = engine.llm_engine.vllm_config.model_config
    monkeypatch.setattr(config, "logits_processors", ["package.module:TargetTokens"])
    with pytest.raises(REFUSAL, match=r"'target_token' is an argument of another logits processor \(TargetTokens\)"):
        engine.generate([prompt], [foreign], use_tqdm=False)


def test_an_engine_with_speculative_decoding_is_refused(engine: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """With speculative decoding vLLM silently ignores logits processors: the constraint would be off."""
    monkeypatch.setattr(engine.llm_engine.input_processor.vllm_config, "speculative_config", SimpleNamespace())
    with pytest.raises(REFUSAL, match="uses speculative decoding"):
        engine.generate(["a"], [params(genrec_catalog="retail")], use_tqdm=False)


def test_validation_outside_of_an_engine_is_refused() -> None:
    """Without the engine's configuration a request cannot be validated."""
    with pytest.raises(InputError, match="validated outside of a vLLM engine"):
        CatalogLogitsProcessor.validate_params(params(genrec_catalog="retail"))
    CatalogLogitsProcessor.validate_params(params())


def test_catalogs_belong_to_the_engine_that_validates(
    catalogs: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the class held them, engines of one process would share catalogs, and those would outlive their engine."""

    class Engine:
        """The part of vLLM that validates requests."""

        def __init__(self) -> None:
            model = SimpleNamespace(
                tokenizer=str(smollm2),
                tokenizer_revision=None,
                max_model_len=512,
                logits_processors=None,
                get_diff_sampling_param=dict,
            )
            self.vllm_config = SimpleNamespace(speculative_config=None, model_config=model, additional_config={})

        def validate(self) -> CatalogRegistry:
            CatalogLogitsProcessor.validate_params(params(genrec_catalog="shop", genrec_form="item"))
            (registry,) = (held for held in vars(self).values() if isinstance(held, CatalogRegistry))
            return registry

    monkeypatch.setenv("GENREC_CATALOGS", f"{catalogs}/")
    one, other = Engine(), Engine()
    assert one.validate() is one.validate()
    assert one.validate() is not other.validate()
    held = [value for owner in CatalogLogitsProcessor.__mro__ for value in vars(owner).values()]
    assert not [value for value in held if isinstance(value, CatalogRegistry | dict | list | set)]
