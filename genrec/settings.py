"""What a recommender is made of."""

from dataclasses import dataclass, field
from pathlib import Path

from genrec.rankers.generative_settings import GenerativeSettings

LANGUAGE_MODEL = "SmolLM2-135M-Instruct"


ENCODER_MODEL = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Settings:
    """What a recommender is made of. The defaults are what measured best; see eval/RESULTS.md.

    Attributes:
        model: a bundled model's name, or a folder with its tokenizer; None for no LLM.
        adapter: a LoRA adapter's folder for it, or the name of an embedded data set for the one that ships with it.
        encoder: the same for the sentence encoder.
        template, cold_template: names or paths of templates.
        generative: how the LLM ranks.
        small_search_candidates: candidates of the second, smaller search on the ladder.
        background: how many people's histories the prior is measured behind.
        compute_priors: measure the prior of the whole catalog now; otherwise of each item when it first comes up. A
            search of the whole catalog does it in any case.
    """

    model: str | Path | None = LANGUAGE_MODEL
    adapter: str | Path | None = None
    encoder: str | Path | None = ENCODER_MODEL
    template: str | Path = "next-item"
    cold_template: str | Path = "cold-start"
    generative: GenerativeSettings = field(default_factory=lambda: GenerativeSettings(fusion_weight=50.0))
    small_search_candidates: int = 10
    background: int = 3
    compute_priors: bool = False
