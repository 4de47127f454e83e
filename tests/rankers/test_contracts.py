"""Every ranker is tested by the contract of `contracts.py`."""

import importlib
import inspect
import pkgutil

from contracts import subjects

import eval.baselines
import genrec.rankers
from genrec.rankers.base import DenseRanker, Ranker


def test_every_ranker_is_tested_by_the_contract() -> None:
    """A ranker without contract tests breaks in production."""
    modules = [
        importlib.import_module(f"{package.__name__}.{module.name}")
        for package in (genrec.rankers, eval.baselines)
        for module in pkgutil.iter_modules(package.__path__)
    ]
    rankers = {
        name
        for module in modules
        for name, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__ and hasattr(one, "rank") and one not in (Ranker, DenseRanker)
    }
    assert rankers == subjects("RankerContract")
