"""Explaining and judging against a server that answers by rules: right labels, the null, faults, log-probabilities."""

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from catalog.answers import Answers
from scoring.client.chat import ChatClient
from scoring.client.language_client import Form, Sending
from scoring.explainers.llm import ExplainSettings, explain_many
from scoring.scorers.detection import PredictSettings, predict_many
from scoring.windows import Example, Judgement, Label
from tests.scoring.chat_server import Endpoint, Reply
from tests.scoring.rule_server import ANSWERED, FAULTS, HARMLESS, Rules

LEXICON = {
    "war": ("army", "troops", "soldier", "bomb", "attack"),
    "algebra": ("matrix", "vector", "rank", "kernel", "basis"),
    "law": ("liable", "court", "contract", "clause", "party"),
    "food": ("bread", "soup", "butter", "onion", "flour"),
    "sea": ("boat", "wave", "harbour", "sailor", "tide"),
    "music": ("violin", "chord", "melody", "drum", "choir"),
}
PLAIN = re.findall("[a-z]+", "the of and a to in it was that some many people there then with other small old new went")
WINDOWS = 40
"""Of each feature; it fires in half of them."""


def text(rng: random.Random, concept: str | None) -> list[str]:
    """Ten tokens, one of them of the concept; the words of no other stand in it."""
    words = [" " + rng.choice(PLAIN) for _ in range(10)]
    if concept is not None:
        words[rng.randrange(10)] = " " + rng.choice(LEXICON[concept])
    return words


def planted(seed: int = 0) -> dict[str, tuple[list[list[str]], list[bool]]]:
    """By concept, windows and whether its feature fires in them: where one of its words stands.

    Windows in which it is silent hold words of other concepts.
    """
    rng = random.Random(seed)
    found: dict[str, tuple[list[list[str]], list[bool]]] = {}
    for concept in LEXICON:
        fires = [i % 2 == 0 for i in range(WINDOWS)]
        others = [other for other in LEXICON if other != concept]
        found[concept] = [text(rng, concept if on else rng.choice(others)) for on in fires], fires
    return found


def example(at: int, tokens: list[str], concept: str) -> Example:
    activations = tuple(5.0 if token.strip() in LEXICON[concept] else 0.0 for token in tokens)
    return Example("c", at, tuple(tokens), activations, "train", max(activations) > 0)


def client(endpoint: Endpoint, tmp_path: Path, **options: Any) -> ChatClient:
    sending = Sending(**{"max_retries": 12, "timeout": 5.0, "jobs": 16, **options})
    return ChatClient("m", endpoint.url, answers=Answers(tmp_path / "answers.sqlite"), sending=sending)


def judged(chat: ChatClient, labels: dict[str, str], seed: int = 0) -> dict[str, list[Judgement]]:
    """By concept, the judgements of its windows given the label."""
    tasks = [(Label(labels[concept]), windows) for concept, (windows, _) in planted(seed).items()]
    names = list(LEXICON)
    return {names[i]: found for i, found in predict_many(tasks, PredictSettings(), chat)}


def rates(found: list[Judgement], fires: list[bool]) -> tuple[float, float]:
    """(share of firing windows, share of the others) that are said to fire."""
    counts = Counter((on, one.predicted) for on, one in zip(fires, found, strict=True))
    return counts[True, True] / sum(fires), counts[False, True] / (len(fires) - sum(fires))


def test_labels_that_the_server_gives_are_right_and_score_f1_above_095(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = Rules(LEXICON)
    chat = client(endpoint, tmp_path)
    windows = planted(seed=1)
    sides = [
        [[example(i, w, concept) for i, (w, on) in enumerate(zip(*windows[concept], strict=True)) if on is side]
         for side in (True, False)]
        for concept in LEXICON
    ]  # fmt: skip
    found = dict(explain_many([(active, silent) for active, silent in sides], ExplainSettings(n_inactive=6), chat))
    labels = {concept: str(found[i].text) for i, concept in enumerate(LEXICON)}
    assert all(concept in label for concept, label in labels.items())
    assert all(label.kept_constraints for label in found.values())
    for concept, judgements in judged(chat, labels).items():
        r, f = rates(judgements, planted()[concept][1])
        assert 2 * r / (r + f + 1) >= 0.95


def test_permuted_labels_have_balanced_accuracy_one_half(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = Rules(LEXICON)
    names = list(LEXICON)
    accuracies = []
    chat = client(endpoint, tmp_path)
    for shift in range(1, len(names)):
        rng = random.Random(shift)
        tasks = []
        for i in range(len(names)):
            wrong = names[(i + shift) % len(names)]
            # The wrong concept's words stand in as many windows of each side.
            windows = [
                [*text(rng, names[i] if on else None), *(text(rng, wrong) if n % 4 < 2 else [])]
                for n, on in enumerate([k % 2 == 0 for k in range(WINDOWS)])
            ]
            tasks.append((Label(f"words about {wrong}"), windows))
        fires = [k % 2 == 0 for k in range(WINDOWS)]
        for _, found in predict_many(tasks, PredictSettings(), chat):
            r, f = rates(found, fires)
            accuracies.append((r + 1 - f) / 2)
    assert abs(sum(accuracies) / len(accuracies) - 0.5) <= 0.05


@pytest.mark.parametrize("fault", FAULTS)
def test_with_thirty_percent_of_a_fault_every_window_ends_judged_or_failed(
    endpoint: Endpoint, tmp_path: Path, fault: str
) -> None:
    rules = Rules(LEXICON, {fault: 0.3}, seed=3, hang=0.6)
    endpoint.answer = rules
    chat = client(endpoint, tmp_path, timeout=0.3 if fault == "hang" else 5.0)
    found = judged(chat, {concept: f"words about {concept}" for concept in LEXICON})
    assert rules.met[fault] > 0
    assert {concept: len(j) for concept, j in found.items()} == dict.fromkeys(LEXICON, WINDOWS)
    everything = [one for judgements in found.values() for one in judgements]
    assert all((one.predicted is None) == bool(one.problem) for one in everything)
    failed = sum(one.predicted is None for one in everything)
    # No request that was answered is sent a second time.
    assert max(rules.answered.values()) == 1
    # Of an answer that cannot be read, three of ten second ones are no better: about 9% of windows; where an
    # endpoint answers nothing, twelve further tries lose one request in a million.
    assert failed / len(everything) < (
        0.2 if fault in ANSWERED and fault != "null" else 0.45 if fault == "null" else 1e-9
    )
    if fault in HARMLESS:
        assert failed == 0
    for concept, judgements in found.items():
        fires = planted()[concept][1]
        assert all(j.predicted == on for j, on in zip(judgements, fires, strict=True) if j.predicted is not None)
    assert chat.spent.paid == sum(rules.answered.values())


def test_thirty_two_requests_are_in_flight(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = Rules(LEXICON, delay=1.0)
    judged(client(endpoint, tmp_path, jobs=32), {concept: f"words about {concept}" for concept in LEXICON})
    assert endpoint.most_at_once == 32


def test_a_judgement_has_the_probability_that_the_log_probabilities_give(endpoint: Endpoint, tmp_path: Path) -> None:
    rules = Rules(LEXICON)
    endpoint.answer = rules
    found = judged(client(endpoint, tmp_path), {concept: f"words about {concept}" for concept in LEXICON})
    for concept, judgements in found.items():
        fires = planted()[concept][1]
        # One word of the label is in each firing window, so the rule says 0.6 among 0 and 1; else 0.02.
        assert [j.probability for j in judgements] == [pytest.approx(0.6 if on else 0.02, rel=1e-4) for on in fires]
    assert all((body["logprobs"], body["top_logprobs"]) == (True, 5) for body in endpoint.requests)
    schema = endpoint.requests[0]["response_format"]["json_schema"]
    assert schema["schema"]["properties"]["values"]["minItems"] == 5
    again = judged(client(endpoint, tmp_path), {concept: f"words about {concept}" for concept in LEXICON})
    assert again == found, "the same from the store"
    assert len(endpoint.requests) == sum(rules.answered.values())


@pytest.mark.parametrize("refused", ["refused response_format", "refused logprobs"])
def test_what_an_endpoint_refuses_is_left_out_from_then_on_and_said_once(
    endpoint: Endpoint, tmp_path: Path, refused: str
) -> None:
    rules = Rules(LEXICON, {refused: 1.0})
    endpoint.answer = rules
    chat = client(endpoint, tmp_path, jobs=1)
    found = judged(chat, {concept: f"words about {concept}" for concept in LEXICON})
    name = refused.removeprefix("refused ")
    assert [name in body for body in endpoint.requests] == [True] + [False] * (len(endpoint.requests) - 1)
    assert len(chat.notes) == 1
    assert "m refuses" in chat.notes[0]
    everything = [one for judgements in found.values() for one in judgements]
    assert all(one.problem is None for one in everything)
    assert {one.probability is None for one in everything} == {name == "logprobs"}


def test_settings_may_leave_log_probabilities_and_schemas_out(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = Rules(LEXICON)
    chat = client(endpoint, tmp_path, structured=False, logprobs=False)
    found = judged(chat, {concept: f"words about {concept}" for concept in LEXICON})
    assert not any({"logprobs", "response_format"} & body.keys() for body in endpoint.requests)
    assert {one.probability for judgements in found.values() for one in judgements} == {None}


def list_of_two(chat: ChatClient, text: str = "x", **params: Any) -> Any:
    return dict(chat.complete_many([[{"role": "user", "content": text}]], [Form(2)], **params))[0]


def test_a_refusal_that_names_nothing_is_tried_without_and_remembered_if_that_helps(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.answer = lambda n, body: (
        Reply(status=422, body='{"detail": "bad request"}') if "logprobs" in body else Reply("[1, 0]")
    )
    chat = client(endpoint, tmp_path)
    assert list_of_two(chat).text == "[1, 0]"
    assert list_of_two(chat, "y").text == "[1, 0]"
    assert [sorted(body.keys() & {"logprobs", "response_format"}) for body in endpoint.requests] == [
        ["logprobs", "response_format"], [], []
    ]  # fmt: skip
    assert len(chat.notes) == 2


def test_what_no_parameter_causes_is_tried_without_them_once_and_then_never(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda n, body: Reply(status=400, body='{"error": {"message": "no such model"}}')
    chat = client(endpoint, tmp_path)
    assert "no such model" in str(list_of_two(chat))
    assert len(endpoint.requests) == 2
    assert "no such model" in str(list_of_two(chat, "y"))
    assert len(endpoint.requests) == 3
    assert chat.notes == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_cannot_heal_is_asked_once(endpoint: Endpoint, tmp_path: Path, status: int) -> None:
    endpoint.answer = lambda n, body: Reply(status=status, body='{"error": {"message": "not for you"}}')
    assert "not for you" in str(list_of_two(client(endpoint, tmp_path)))
    assert len(endpoint.requests) == 1


def test_parameters_of_ones_own_come_first(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda n, body: Reply("[1, 0]")
    own = {"logprobs": False, "response_format": {"type": "text"}}
    list_of_two(client(endpoint, tmp_path), **own)
    assert {name: endpoint.requests[0][name] for name in own} == own
    assert "top_logprobs" not in endpoint.requests[0]


def test_an_endpoint_that_leaves_log_probabilities_out_gives_no_probability(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = Rules(LEXICON, {"no logprobs": 1.0})
    chat = client(endpoint, tmp_path)
    found = judged(chat, {concept: f"words about {concept}" for concept in LEXICON})
    assert {(one.probability, one.problem) for judgements in found.values() for one in judgements} == {(None, None)}
    assert chat.notes == []
