"""`genrec evaluate` measures an adapter on what it was not trained on, or says that it does not."""

import pytest
from command_line import run


def test_an_adapter_is_refused_on_items_that_it_was_trained_on() -> None:
    """Its accuracy would be overstated, and nobody would know."""
    result = run("evaluate", "--adapter", "online-retail")
    assert result.exit_code == 2
    assert "449 of 1,000 held-out items are in the training interactions" in result.err
    assert "use the protocol next-basket" in result.err
    assert "--allow-leakage" in result.err


@pytest.mark.model
def test_allowed_leakage_is_reported(smollm2: object, minilm: object) -> None:
    """A figure that is passed on without its caveat misleads."""
    options = ("--adapter", "online-retail", "--users", "6", "--ranker", "generative-small", "--encoder", "none")
    result = run("evaluate", *options, "--allow-leakage", "--json")
    assert result.json["leakage"]["leaked"] > 0
    assert result.json["leakage"]["targets"] == 6
    assert "may have been learned by the adapter online-retail" in result.err
    assert "The adapter may have been trained on" in run("evaluate", *options, "--allow-leakage").out


def test_an_adapter_that_does_not_rank_leaks_nothing() -> None:
    """Other rankers learn from the training interactions of the experiment only."""
    result = run(
        "evaluate",
        "--adapter",
        "online-retail",
        "--ranker",
        "popularity",
        "--users",
        "20",
        "--encoder",
        "none",
        "--json",
    )
    assert result.json["leakage"] is None
