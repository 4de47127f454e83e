"""Laws of training examples: training uses the same tokens as serving."""

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
        node, path = int(example.item_tokens[example.token_items == choice][-1]), []
        while node >= 0:
            path.append(int(example.token_ids[node]))
            node = int(example.parents[node])
        found.append(path[::-1])
    return found


def test_a_path_has_the_tokens_of_serving(served: tuple[Renderer, CatalogIndex, list[IntArray]]) -> None:
    """A training prompt that differs from the serving prompt by one token teaches something else."""
    renderer, index, histories = served
    random, tried = np.random.default_rng(0), 0
    for history in (own for own in histories if len(own) > 3):
        history = history[:40]
        positions = np.sort(random.choice(np.arange(1, len(history)), min(3, len(history) - 1), replace=False))
        others = [np.setdiff1d(random.integers(0, len(index.catalog), 3), history[position]) for position in positions]
        targets = [Target(int(position), own) for position, own in zip(positions, others, strict=True)]
        example = build_example(renderer, index, history, targets)
        expected = []
        for target in targets:
            prompt = renderer.render(history[: target.event_index], "", NOTHING).token_ids
            for item in (history[target.event_index], *target.negatives):
                row = index.trie.tokens_of_row(int(index.trie.rows_of_items[item]))
                expected.append([*prompt.tolist(), *row.tolist()])
        assert paths(example) == expected
        assert example.item_indices[example.positives].tolist() == history[positions].tolist()
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
    """A missing branch point is not trained; an extra token trains against one that is never generated."""
    renderer, index, histories = served
    rows = [tuple(index.trie.tokens_of_row(row).tolist()) for row in range(len(index.trie))]
    for history in [own[:6] for own in histories if len(own) >= 6][:20]:
        example = build_example(renderer, index, history, [Target(3, NOTHING), Target(5, history[:1])])
        found = {}
        for point, start, end in zip(
            example.branch_points, example.branch_offsets, example.branch_offsets[1:], strict=False
        ):
            found[int(point)] = sorted(example.branch_tokens[start:end].tolist())
        expected = {}
        for choice in example.positives:
            own = np.flatnonzero(example.token_items == choice)
            path = tuple(example.token_ids[example.item_tokens[own]].tolist())
            for depth, token_index in enumerate(own):
                allowed = sorted({row[depth] for row in rows if row[:depth] == path[:depth] and len(row) > depth})
                if len(allowed) > 1:
                    expected[int(token_index)] = allowed
        assert found == expected


def test_query_and_candidates_are_rendered(
    served: tuple[Renderer, CatalogIndex, list[IntArray]], tokenizer: HuggingFaceTokenizer
) -> None:
    """An adapter must be trained with queries and candidates as they are rendered in serving."""
    renderer, index, histories = served
    showing = replace(renderer, template=read_template("rank-candidates"))
    history = next(own for own in histories if len(own) >= 6)[:6]
    target = Target(4, NOTHING, "something red", history[3:6])
    example = build_example(showing, index, history, [target])
    expected = showing.render(history[:4], "something red", history[3:6]).token_ids.tolist()
    assert paths(example)[0][: len(expected)] == expected
    assert "something red" in tokenizer.decode(expected)


def test_shared_prefixes_are_stored_once(served: tuple[Renderer, CatalogIndex, list[IntArray]]) -> None:
    """A further target of a history must cost little more than the tokens of its item."""
    renderer, index, histories = served

    def tokens(renderer: Renderer, first: int, size: int) -> tuple[int, int]:
        """Total tokens for 50 histories: with all targets in one tree, and with one tree for each target."""
        whole = alone = 0
        for history in [own[:size] for own in histories if len(own) >= size][:50]:
            targets = [Target(position, NOTHING) for position in range(first, size)]
            whole += len(build_example(renderer, index, history, targets).token_ids)
            alone += sum(len(build_example(renderer, index, history, [target]).token_ids) for target in targets)
        return whole, alone

    whole, alone = tokens(renderer, 2, 12)
    assert alone > 2 * whole
    # In a template that continues a list, every later prompt contains the items before it as lines.
    going_on = replace(renderer, template=read_template(Path("finetune/next-line.j2")))
    whole, alone = tokens(going_on, 1, 13)
    assert alone > 5 * whole


def test_a_token_sees_only_its_own_path(served: tuple[Renderer, CatalogIndex, list[IntArray]]) -> None:
    """A token of another path could reveal the item to predict."""
    renderer, index, histories = served
    history = next(own for own in histories if len(own) >= 6)[:6]
    example = build_example(renderer, index, history, [Target(3, NOTHING), Target(5, NOTHING)])
    seen = example.visible()
    for node in range(len(example.parents)):
        path, ancestor = set(), node
        while ancestor >= 0:
            path.add(ancestor)
            ancestor = int(example.parents[ancestor])
        assert set(np.flatnonzero(seen[node]).tolist()) == path
        assert example.positions[node] == len(path) - 1


def test_invalid_targets_are_refused(served: tuple[Renderer, CatalogIndex, list[IntArray]]) -> None:
    """An item among its own negatives would be trained to score lower."""
    renderer, index, histories = served
    history = next(own for own in histories if len(own) >= 6)[:6]
    for targets, message in (
        ([], "at least one target"),
        ([Target(6, NOTHING)], "event_index is 6, but the history has 6 items"),
        ([Target(-1, NOTHING)], "event_index is -1, but the history"),
        ([Target(3, NOTHING, num_known=4)], "num_known is 4 for event_index 3"),
        ([Target(2, history[2:3])], "is among its own negatives"),
    ):
        with pytest.raises(InputError, match=message):
            build_example(renderer, index, history, targets)
