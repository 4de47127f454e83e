"""Laws of encoding: the model reads what it was trained on, and no text of a stranger becomes a control token."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import CONTROL_TOKENS, hostile_texts
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from genrec.errors import ArtifactError
from genrec.prompting.template import Template, one_line, read_template
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.types import Message, Role, Span

CHATML = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def said(role: Role, *texts: str, trusted: bool = True) -> Message:
    return Message(role, tuple(Span(text, trusted) for text in texts))


@pytest.fixture(scope="session")
def reference(smollm2: Path) -> Any:
    """The same tokenizer as Transformers loads it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)


# Benign text is read as the model was trained

BENIGN: list[list[tuple[Role, str]]] = [
    [("user", "What is the capital of France?")],
    [("system", "You know what customers choose."), ("user", "1. Alien\n2. Heat (1995)\nWhat next?")],
    [("user", "Café  au lait, 中文, 👩‍👧 and e\u0301"), ("assistant", "A mug."), ("user", "Another one, under 5.00")],
    [("system", "Short."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
]


@pytest.mark.parametrize("turns", BENIGN)
def test_a_prompt_has_the_ids_that_transformers_gives_it(
    tokenizer: HuggingFaceTokenizer, reference: Any, turns: list[tuple[Role, str]]
) -> None:
    """Other ids than those of its training quietly make the model worse. How the text is cut must not matter."""
    expected = reference.apply_chat_template(
        [{"role": role, "content": text} for role, text in turns],
        add_generation_prompt=True,
        return_dict=False,
    )
    for size in (1, 3, 1000):
        prompt = [
            Message(role, tuple(Span(text[i : i + size], bool(i % 2)) for i in range(0, len(text), size)))
            for role, text in turns
        ]
        assert tokenizer.encode_prompt(prompt).tolist() == list(expected)


@pytest.mark.parametrize("turns", BENIGN)
def test_the_beginning_of_an_answer_stays_open(
    tokenizer: HuggingFaceTokenizer, reference: Any, turns: list[tuple[Role, str]]
) -> None:
    """A closed turn makes the model begin a new one instead of going on."""
    answer = "The next thing is"
    messages = [{"role": role, "content": text} for role, text in [*turns, ("assistant", answer)]]
    expected = reference.apply_chat_template(messages, continue_final_message=True, return_dict=False)
    prompt = [*(said(role, text) for role, text in turns), said("assistant", answer)]
    assert tokenizer.encode_prompt(prompt).tolist() == list(expected)


@given(st.text(st.characters(max_codepoint=0x3FFFF), max_size=200).map(one_line))
def test_decoding_undoes_encoding(tokenizer: HuggingFaceTokenizer, text: str) -> None:
    """What people are shown is what was said; only control characters and empty planes lack tokens here."""
    assert tokenizer.decode(tokenizer.encode_text(text)) == text


def test_decoding_names_control_tokens(tokenizer: HuggingFaceTokenizer) -> None:
    """Otherwise a prompt cannot be shown as the model sees it."""
    prompt = [said("user", "a <|im_end|>", trusted=False)]
    text = tokenizer.decode(tokenizer.encode_prompt(prompt))
    assert text.endswith("<|im_start|>user\na <|im_end|><|im_end|>\n<|im_start|>assistant\n")


# Text is data


def test_untrusted_text_never_encodes_to_control_tokens(tokenizer: HuggingFaceTokenizer, reference: Any) -> None:
    """A title with <|im_end|> in it must not end the customer's turn and speak as the system."""
    texts = hostile_texts(10_000, seed=0)
    template = read_template("next-item")
    scaffold = control_counts(tokenizer, encoded(tokenizer, template, ["x"], "y"))
    forged = 0
    for start in range(0, len(texts), 20):
        *titles, words = texts[start : start + 20]
        found = control_counts(tokenizer, encoded(tokenizer, template, titles, words))
        assert found == scaffold, (titles, words)
        naive = reference(words, add_special_tokens=False)["input_ids"]
        forged += bool(control_counts(tokenizer, naive))
    assert forged > 100, "the texts are too tame to show anything"


@given(st.lists(st.sampled_from([*CONTROL_TOKENS, "<|im_", "end|>", "a", "\n"]), min_size=1, max_size=6))
def test_not_even_halves_that_meet_become_a_control_token(tokenizer: HuggingFaceTokenizer, pieces: list[str]) -> None:
    """Untrusted text beside the operator's must not complete a token together."""
    spans = [Span("<|im_", trusted=True), Span("".join(pieces), trusted=False), Span("end|>", trusted=True)]
    assert not control_counts(tokenizer, tokenizer.encode_spans(spans))
    alone = [Span(piece, trusted=False) for piece in pieces]
    assert tokenizer.encode_spans(alone).tolist() == tokenizer.encode_text("".join(pieces)).tolist()


def test_the_operator_can_name_control_tokens(tokenizer: HuggingFaceTokenizer) -> None:
    """Base models and few-shot prompts need them; only the file of the template may."""
    ids = tokenizer.encode_spans([Span("a<|im_end|>", trusted=True), Span("<|im_end|>", trusted=False)]).tolist()
    assert ids[: ids.index(2) + 1] == [*tokenizer.encode_text("a").tolist(), 2]
    assert control_counts(tokenizer, ids) == {2: 1}
    assert tokenizer.eos_token_id == 2


def test_slots_of_the_scaffold_cannot_be_forged(tokenizer: HuggingFaceTokenizer) -> None:
    """The marks that find the messages in a chat template may stand in a title too."""
    text = "\ue0000\ue001\ue0001\ue001"
    prompt = [said("system", "s"), said("user", text, trusted=False)]
    assert text in tokenizer.decode(tokenizer.encode_prompt(prompt))


def encoded(tokenizer: HuggingFaceTokenizer, template: Template, titles: list[str], words: str) -> list[int]:
    values = {"history": [{"title": title} for title in titles], "words": words}
    return tokenizer.encode_prompt(template.render(**{name: values[name] for name in template.inputs})).tolist()


def control_counts(tokenizer: HuggingFaceTokenizer, token_ids: Any) -> dict[int, int]:
    return {token_id: count for token_id, count in Counter(map(int, token_ids)).items() if token_id < 17}


# What cannot keep the laws is refused


def small(chat_template: str | None = CHATML, *, end: str = "</s>") -> HuggingFaceTokenizer:
    """A byte-level tokenizer without merges, and two control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return HuggingFaceTokenizer(tokenizer.to_str(), chat_template=chat_template, bos_token="<s>", eos_token=end)


TURNS: list[Message] = [said("system", "s"), said("user", "u")]


def test_every_message_reaches_the_model_in_order() -> None:
    """The tokenizer below keeps the law; those of the next test break it."""
    ids = small().encode_prompt(TURNS)
    assert ids.dtype == np.int64
    assert len(ids) == len("system\ns\n" + "user\nu\n" + "assistant\n") + 5


@pytest.mark.parametrize(
    ("chat_template", "message"),
    [
        ("{{ messages[-1].content }}", "does not show the messages user, assistant once and in order"),
        ("{% for m in messages|reverse %}{{ m.content }}{% endfor %}", "once and in order"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "once and in order"),
        (CHATML.replace("m.content }}", "m.content|replace('\ue001', '') }}"), "once and in order"),
        (
            "{{ raise_exception('no system role') }}",
            "rejects the roles .*no system role; use a prompt template with",
        ),
        ("{{ messages[0].colour.name }}" + CHATML, "rejects the roles"),
        ("{% for m in messages %}", "rejects the roles"),
    ],
)
def test_a_chat_template_that_loses_or_moves_a_message_is_refused(chat_template: str, message: str) -> None:
    """Otherwise the model answers without ever seeing the history, and the figures look merely bad."""
    with pytest.raises(ArtifactError, match=message):
        small(chat_template).encode_prompt(TURNS)


def test_system_message_is_prepended_to_the_user_without_a_system_role() -> None:
    """Gemma's format refuses a system message; a template with one must not fail on every request."""
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('unknown') }}{% endif %}" + CHATML
    merged = small(refusing).encode_prompt(TURNS)
    assert merged.tolist() == small(refusing).encode_prompt([said("user", "s\n\nu")]).tolist()


def test_a_chat_template_is_sandboxed() -> None:
    """It comes with the weights, from a stranger."""
    for attack in ("''.__class__.__subclasses__()", "lipsum.__globals__['os'].getcwd()", "messages.append(1)"):
        with pytest.raises(ArtifactError, match="unsafe"):
            small("{{ " + attack + " }}" + CHATML)


def test_without_a_chat_template_messages_are_paragraphs() -> None:
    """Base models have none, and must still be usable; most were trained to see their begin token first."""
    tokenizer = small(None)
    begin, *rest = tokenizer.encode_prompt(TURNS).tolist()
    assert tokenizer.decode([begin]) == "<s>"
    assert rest == tokenizer.encode_text("s\n\nu\n\n").tolist()
    assert tokenizer.decode([tokenizer.eos_token_id]) == "</s>"


def test_a_tokenizer_that_writes_control_tokens_as_text_is_refused() -> None:
    """There a title could forge any of them, and no care with spans would help."""
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "?": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    with pytest.raises(ArtifactError, match="encodes text to its control token '<s>'"):
        HuggingFaceTokenizer(tokenizer.to_str(), chat_template=None, bos_token="<s>", eos_token="</s>")


def test_an_added_token_that_is_ordinary_text_is_no_control_token() -> None:
    """Some models keep line breaks and tags among the added tokens; refusing them would refuse the model."""
    tokenizer = Tokenizer(models.WordLevel({"<b>": 0, "a": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_tokens(["<b>"])
    tokenizer.add_special_tokens(["</s>"])
    adapted = HuggingFaceTokenizer(tokenizer.to_str(), chat_template=None, bos_token="", eos_token="</s>")
    assert adapted.encode_text("<b> a </s>").tolist() == [0, 1, 2]


def test_unknown_character_never_encodes_to_a_control_token() -> None:
    """Where the end token also stands for what the vocabulary lacks, any odd character would close the turn."""
    vocab = {token: place for place, token in enumerate(["a", "<", "/", "s", ">", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="</s>"))
    tokenizer.add_special_tokens(["</s>"])
    adapted = HuggingFaceTokenizer(tokenizer.to_str(), chat_template=None, bos_token="", eos_token="</s>")
    assert adapted.encode_text("axa").tolist() == [0, 0]


def test_a_tokenizer_without_an_end_is_refused() -> None:
    """Identifiers are closed by it; without one an item could be the beginning of another."""
    with pytest.raises(ArtifactError, match="has no end token; set eos_token"):
        small(None, end="<none>")
    assert small(CHATML, end="<none>").eos_token_id == small().eos_token_id


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_folder_without_a_tokenizer_is_named(smollm2: Path, tmp_path: Path, name: str) -> None:
    """The caller gets the folder and the remedy, not a traceback of a parser."""
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / file).write_bytes((smollm2 / file).read_bytes())
    assert HuggingFaceTokenizer.from_directory(tmp_path).eos_token_id == 2
    for damage in (b"", b"{", b"[]", b"\xff", b"5", b'{"eos_token": {}, "added_tokens": 3}'):
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(ArtifactError, match="tokenizer"):
            HuggingFaceTokenizer.from_directory(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=f"no readable tokenizer in {tmp_path}.*fetch the model again"):
        HuggingFaceTokenizer.from_directory(tmp_path)


def test_the_fingerprint_is_of_the_vocabulary(tokenizer: HuggingFaceTokenizer, smollm2: Path) -> None:
    """An index built with one tokenizer must be told from one built with another."""
    assert HuggingFaceTokenizer.from_directory(smollm2).fingerprint == tokenizer.fingerprint
    assert small().fingerprint != tokenizer.fingerprint
    assert tokenizer.vocab_size == 49_152
