"""Settings of the LLM ranker."""

import pytest

from genrec.errors import InputError
from genrec.rankers.generative_settings import GenerativeSettings


def test_invalid_settings_are_rejected() -> None:
    """An out-of-range value would be read as another setting."""
    for options, message in [
        ({"strategy": "best"}, "strategy is 'best'; choose one of beam, exhaustive, candidates"),
        ({"score": "sum"}, "score is 'sum'; choose one of model, catalog"),
        ({"width": 1.5}, "width is 1.5; give a whole number of at least 1"),
        ({"batch_size": "8"}, "batch_size is '8'; give a whole number of at least 1"),
        ({"exact": "no"}, "exact is 'no'; give True or False"),
        ({"memory": "1GB"}, "memory is '1GB'; give a number of bytes above 0"),
        ({"prior": None}, "prior is None; it must be a number of at least 0"),
        ({"width": 0}, "width is 0; give a whole number of at least 1"),
        ({"candidates": 0}, "candidates is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"history_step": 0}, "history_step is 0"),
        ({"prior": -1.0}, r"prior is -1\.0; it must be a number of at least 0"),
        ({"fusion_weight": float("nan")}, "fusion_weight is nan"),
        ({"memory": 0.0}, r"memory is 0\.0; give a number of bytes above 0"),
        ({"memory": float("nan")}, "memory is nan"),
        ({"memory": float("inf")}, "memory is inf"),
        ({"max_nodes": 0}, "max_nodes is 0"),
    ]:
        with pytest.raises(InputError, match=message):
            GenerativeSettings(**options)  # type: ignore[arg-type]
