"""What is learned is what is served, token by token."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genrec import CatalogIndex, TitleIdentifiers, open_dataset, read_template
from genrec.errors import InputError
from genrec.index.training_examples import Target, TrainingExample, build_example
from genrec.prompting.renderer import Renderer
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.types import IntArray

pytestmark = pytest.mark.model
NOTHING = np.empty(0, dtype=np.int64)


@pytest.fixture(scope="module")
def served(tokenizer: HuggingFaceTokenizer, cache: Path) -> tuple[Renderer, CatalogIndex, list[IntArray]]:
    catalog, interactions = open_dataset("online-retail", cache)
    index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
    offsets, items = interactions.to_indices(catalog, on_unknown="skip")
    renderer = Renderer(catalog, tokenizer, read_template("next-item"), 2000, 12)
    return renderer, index, np.split(items, offsets[1:-1])


def paths(example: TrainingExample) -> list[list[int]]:
    """The tokens from the root to the end of each choice."""
    found = []
    for choice in range(len(example.item_indices)):
        place, path = int(example.item_tokens[example.token_items == choice][-1]), []
        while place >= 0:
            path.append(int(example.token_ids[place]))
            place = int(example.parents[place])
        found.append(path[::-1])
    return found


def test_a_path_is_what_serving_sends(served: tuple[Renderer, CatalogIndex, list[IntArray]]) -> None:
    """A prompt in training that differs by one token from the one in production teaches something else."""
    renderer, index, histories = served
    random, tried = np.random.default_rng(0), 0
    for history in (own for own in histories if len(own) > 3):
        history = history[:40]
        places = np.sort(random.choice(np.arange(1, len(history)), min(3, len(history) - 1), replace=False))
        others = [np.setdiff1d(random.integers(0, len(index.catalog), 3), history[place]) for place in places]
        targets = [Target(int(place), own) for place, own in zip(places, others, strict=True)]
        example = build_example(renderer, index, history, targets)
        expected = []
        for target in targets:
            prompt = renderer.render(history[: target.event_index], "", NOTHING).token_ids
            for item in (history[target.event_index], *target.negatives):
                row = index.trie.tokens_of_row(int(index.trie.rows_of_items[item]))
                expected.append([*prompt.tolist(), *row.tolist()])
        assert paths(example) == expected
        assert example.item_indices[example.positives].tolist() == history[places].tolist()
        assert len(
            {(int(parent), int(token)) for parent, token in zip(example.parents, example.token_ids, strict=True)}
        ) == len(example.token_ids)
        tried += 1
        if tried == 1000:
            break
    assert tried == 1000


def test_branching_nodes_are_those_with_several_children(
    served: tuple[Renderer, CatalogIndex, list[IntArray]],
) -> None:
    """A fork too few and nothing is learned there; a token that no item has teaches to avoid what cannot be written."""
    renderer, index, histories = served
    rows = [tuple(index.trie.tokens_of_row(row).tolist()) for row in range(len(index.trie))]
    for history in [own[:6] for own in histories if len(own) >= 6][:20]:
        example = build_example(renderer, index, history, [Target(3, NOTHING), Target(5, history[:1])])
        found = {}
        for fork, start, end in zip(
            example.branch_points, example.branch_offsets, example.branch_offsets[1:], strict=False
        ):
            found[int(fork)] = sorted(example.branch_tokens[start:end].tolist())
        expected = {}
        for choice in example.positives:
            own = np.flatnonzero(example.token_items == choice)
            path = tuple(example.token_ids[example.item_tokens[own]].tolist())
            for depth, step in enumerate(own):
                allowed = sorted({row[depth] for row in rows if row[:depth] == path[:depth] and len(row) > depth})
                if len(allowed) > 1:
                    expected[int(step)] = allowed
        assert found == expected


def test_query_and_candidates_are_rendered(
    served: tuple[Renderer, CatalogIndex, list[IntArray]], tokenizer: HuggingFaceTokenizer
) -> None:
    """An adapter that was not asked in the words of serving does not know them."""
    renderer, index, histories = served
    showing = replace(renderer, template=read_template("rank-candidates"))
    history = next(own for own in histories if len(own) >= 6)[:6]
    target = Target(4, NOTHING, "something red", history[3:6])
    example = build_example(showing, index, history, [target])
    expected = showing.render(history[:4], "something red", history[3:6]).token_ids.tolist()
    assert paths(example)[0][: len(expected)] == expected
    assert "something red" in tokenizer.decode(expected)


def test_what_begins_alike_is_there_once(served: tuple[Renderer, CatalogIndex, list[IntArray]]) -> None:
    """Every position of a history is a target for little more than the question and its item."""
    renderer, index, histories = served

    def tokens(renderer: Renderer, first: int, size: int) -> tuple[int, int]:
        """Of 50 people's first items: of all targets from one on in one tree, and of a tree for each."""
        whole = alone = 0
        for history in [own[:size] for own in histories if len(own) >= size][:50]:
            targets = [Target(place, NOTHING) for place in range(first, size)]
            whole += len(build_example(renderer, index, history, targets).token_ids)
            alone += sum(len(build_example(renderer, index, history, [target]).token_ids) for target in targets)
        return whole, alone

    whole, alone = tokens(renderer, 2, 12)
    assert alone > 2 * whole
    # In the layout of a list that goes on, an item that was taken is a line of all prompts behind it.
    going_on = replace(renderer, template=read_template(Path("finetune/next-line.j2")))
    whole, alone = tokens(going_on, 1, 13)
    assert alone > 5 * whole


def test_a_token_sees_its_own_path_only(served: tuple[Renderer, CatalogIndex, list[IntArray]]) -> None:
    """One more would tell the model what it is to find."""
    renderer, index, histories = served
    history = next(own for own in histories if len(own) >= 6)[:6]
    example = build_example(renderer, index, history, [Target(3, NOTHING), Target(5, NOTHING)])
    seen = example.visible()
    for place in range(len(example.parents)):
        path, at = set(), place
        while at >= 0:
            path.add(at)
            at = int(example.parents[at])
        assert set(np.flatnonzero(seen[place]).tolist()) == path
        assert example.positions[place] == len(path) - 1


def test_what_teaches_nothing_is_refused(served: tuple[Renderer, CatalogIndex, list[IntArray]]) -> None:
    """An item set against itself would be pushed down for being right."""
    renderer, index, histories = served
    history = next(own for own in histories if len(own) >= 6)[:6]
    for targets, message in (
        ([], "at least one target"),
        ([Target(6, NOTHING)], "place 6 of a history of 6 items"),
        ([Target(-1, NOTHING)], "place -1 of a history"),
        ([Target(3, NOTHING, num_known=4)], "4 items are known before the target at place 3"),
        ([Target(2, history[2:3])], "is set against itself"),
    ):
        with pytest.raises(InputError, match=message):
            build_example(renderer, index, history, targets)
