"""Answers of a model of this process, against the same model asked naively: one conversation, no cache, no padding."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)

from catalog.answers import Answers
from catalog.errors import InputError, StudyError
from catalog.study.file import Study
from ingest.embedded import MODEL_DIR
from scoring.client import local_chat
from scoring.client.budget import Budget, BudgetSpent
from scoring.client.chat_tokens import chat_tokens
from scoring.client.language_client import FREE, Answer, Form, LLMError
from scoring.client.local_chat import LocalChat
from scoring.client.local_model import LocalModel
from scoring.client.local_name import local_name
from scoring.explainers.llm import ExplainSettings, explain
from scoring.scorers.detection import PredictSettings, predict
from scoring.windows import Example, Label

SYSTEM = "Say for each window whether it holds what is described, as a list of numbers."
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
IDS: dict[str, Any] = {"vocab_size": 4096, "bos_token_id": 0, "eos_token_id": 0}
PREDICTOR = 'system = "Judge."\nuser = "Description: $explanation\\n$examples\\n"\n'


def conversation(label: str, *windows: str) -> list[dict[str, str]]:
    text = "\n".join([f"Description: {label}", *(f"Example {i}: {w}" for i, w in enumerate(windows, 1))])
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


CONVERSATIONS = [
    conversation("a matrix", "the matrix", "a cat", "the rank of a matrix"),
    conversation("a matrix", "a norm of the vector is returned", "no"),
    conversation("a matrix", "the array is copied", "yes"),
    conversation("an array of numbers", "the array", "returns the sum", "x"),
    conversation("an array of numbers", "numpy", "the sorted values of the array are returned to the caller", "y"),
    [{"role": "user", "content": "Hi"}],
]
FORMS = [Form(3), Form(2), Form(2), Form(3), Form(3), Form(1, ("1", "2", "3"))]


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel("embedded")


@pytest.fixture
def chat(model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalChat:
    monkeypatch.setattr(local_chat, "loaded", lambda source: model)
    return LocalChat("embedded", answers=Answers(tmp_path / "answers.sqlite"))


@torch.inference_mode()
def next_probabilities(model: LocalModel, ids: list[int]) -> torch.Tensor:
    return model._network(torch.tensor([ids]), use_cache=False).logits[0, -1].float().softmax(0)


def naive_list(model: LocalModel, ids: list[int], form: Form) -> tuple[str, list[dict[str, float]]]:
    """The list that the model writes, and the probability of each choice: everything is computed anew at each place."""
    text, odds = "[", []
    for place in range(form.values):
        spelled = [[*ids, *model._encoded(text + choice)] for choice in form.choices]
        assert len({tuple(tokens[:-1]) for tokens in spelled}) == 1
        chances = next_probabilities(model, spelled[0][:-1])
        odds.append({c: float(chances[tokens[-1]]) for c, tokens in zip(form.choices, spelled, strict=True)})
        text += max(odds[-1], key=lambda c: odds[-1][c]) + (", " if place + 1 < form.values else "]")
    return text, odds


def test_lists_and_probabilities_are_those_of_the_model_asked_naively(model: LocalModel) -> None:
    written = dict(model.write(CONVERSATIONS, FORMS, 100))
    assert sorted(written) == list(range(len(FORMS)))
    for i, form in enumerate(FORMS):
        ids = chat_tokens(model._tokenizer, CONVERSATIONS[i], model._model.bos)
        text, odds = naive_list(model, ids, form)
        assert (written[i].text, written[i].prompt_tokens) == (text, len(ids))
        for (end, found), expected in zip(written[i].odds, odds, strict=True):
            assert text[end - 1] == max(expected, key=lambda c: expected[c])
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-7)


def saved(network: PreTrainedModel, folder: Path) -> Path:
    """A model of random weights beside the embedded one's tokenizer; larger weights tell positions apart."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(3)
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["learned positions", "sliding windows"])
def test_models_of_other_kinds_answer_as_they_do_naively(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    made: PreTrainedModel = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=2, n_positions=256, **IDS))
    if kind == "sliding windows":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
        made = Gemma3ForCausalLM(
            Gemma3TextConfig(**sizes, **IDS, head_dim=16, num_hidden_layers=6, sliding_window=16)
        )  # fmt: skip
    model = LocalModel(str(saved(made, tmp_path / "lm")))
    assert model._reader._shares
    # A window that slides would slide over padding.
    assert model._reader._pads == (kind == "learned positions")
    test_lists_and_probabilities_are_those_of_the_model_asked_naively(model)
    test_a_free_answer_is_greedy_and_ends_where_the_model_ends_it(model)


def test_a_model_without_a_cache_is_refused_in_a_line(tmp_path: Path) -> None:
    network = MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, **IDS))
    with pytest.raises(InputError, match=r"MambaForCausalLM\) keeps no cache"):
        LocalModel(str(saved(network, tmp_path / "lm")))


def test_no_prefix_is_read_twice_and_order_does_not_matter(model: LocalModel) -> None:
    def stem(i: int) -> list[int]:
        return [*chat_tokens(model._tokenizer, CONVERSATIONS[i], model._model.bos), *model._encoded("[")]

    # What five rows share of their instructions is read once, and what two or three share of a label too.
    model._reader.tokens = 0
    written = dict(model.write(CONVERSATIONS[:5], [Form(1)] * 5, 100))
    rows = [stem(i) for i in range(5)]
    tree = {tuple(row[:n]) for row in rows for n in range(1, len(row) + 1)}
    # A branch of fewer than eight tokens is not kept.
    assert len(tree) <= model._reader.tokens <= len(tree) + 8 * 5
    assert model._reader.tokens < 0.6 * sum(map(len, rows))
    other = dict(model.write(CONVERSATIONS[4::-1], [Form(1)] * 5, 100))
    for i in range(5):
        assert other[4 - i].text == written[i].text
        assert other[4 - i].odds[0][1] == pytest.approx(written[i].odds[0][1], rel=1e-3)


def test_a_free_answer_is_greedy_and_ends_where_the_model_ends_it(model: LocalModel) -> None:
    asked = CONVERSATIONS[:3]
    for i, found in model.write(asked, [FREE] * 3, 6):
        ids = chat_tokens(model._tokenizer, asked[i], model._model.bos)
        made: list[int] = []
        while len(made) < 6 and not (made and made[-1] in model._stops):
            made.append(int(next_probabilities(model, [*ids, *made]).argmax()))
        text = model._tokenizer.decode(made, skip_special_tokens=True)
        assert found.text == text
        assert found.completion_tokens == len(made)
        assert (found.problem is None) == (made[-1] in model._stops)


def test_an_explanation_is_one_line_after_its_marker(chat: LocalChat) -> None:
    windows = [Example("c", 0, (" the", " matrix"), (0.0, 3.0), "train", True)]
    text = 'system = "S"\nuser = "$examples"\n'
    label = explain(windows, [], ExplainSettings(text=text, parameters={"temperature": 0, "max_tokens": 60}), chat)
    if label.text is None:
        assert "cut off" in (label.problem or "")
    else:
        assert "\n" not in label.text
        assert label.details["answer"].startswith("[EXPLANATION]:")
    assert label.model == "embedded"


def test_detection_judges_with_exact_probabilities_and_costs_no_money(chat: LocalChat) -> None:
    windows = [f"the array {i} is returned" for i in range(7)]
    settings = PredictSettings(batch=3, text=PREDICTOR)
    judged = predict(Label("an array"), windows, settings, chat)
    assert all(j.problem is None and j.predicted == ((j.probability or 0) > 0.5) for j in judged)
    assert {j.cost for j in judged} == {0.0}
    assert chat.spent.paid == 3
    assert sum(j.prompt_tokens for j in judged) == chat.spent.prompt_tokens > 0
    again = LocalChat("embedded", answers=chat._answers)
    assert predict(Label("an array"), windows, settings, again) == judged
    assert (again.spent.paid, again.spent.stored) == (0, 3)


def test_a_prompt_that_the_model_cannot_read_fails_with_its_length(chat: LocalChat) -> None:
    long = [{"role": "user", "content": "word " * 400}]
    (_, result), (_, other) = sorted(chat.complete_many([long, CONVERSATIONS[0]], [Form(2)] * 2))
    assert isinstance(result, LLMError)
    assert "the model reads at most 256" in str(result)
    assert isinstance(other, Answer)


def test_a_limit_on_calls_holds_here_too(chat: LocalChat) -> None:
    chat._budget = Budget(calls=2)
    results = dict(chat.complete_many(CONVERSATIONS[:4], FORMS[:4]))
    assert [isinstance(results[i], BudgetSpent) for i in range(4)] == [False, False, True, True]


def test_a_window_that_spells_a_special_token_ends_no_turn(model: LocalModel) -> None:
    tokenizer = model._tokenizer
    for template in (None, TEMPLATE):
        tokenizer.chat_template = template
        try:
            plain = chat_tokens(tokenizer, [{"role": "user", "content": "a b"}], model._model.bos)
            hostile = chat_tokens(tokenizer, [{"role": "user", "content": "a <|bos|> b"}], model._model.bos)
        finally:
            tokenizer.chat_template = None
        special = set(tokenizer.all_special_ids)
        assert sum(i in special for i in hostile) == sum(i in special for i in plain)
        assert "<|bos|>" in tokenizer.decode(hostile[1:])


def test_a_template_without_system_messages_gets_them_with_the_first_of_the_user(model: LocalModel) -> None:
    tokenizer = model._tokenizer
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    )
    try:
        ids = chat_tokens(tokenizer, CONVERSATIONS[0], None)
    finally:
        tokenizer.chat_template = None
    said = tokenizer.decode(ids)
    assert said.startswith(f"<|user|>{SYSTEM}\n\nDescription: a matrix")
    assert said.endswith("<|assistant|>")


def test_a_name_follows_the_files_and_not_their_folder(tmp_path: Path) -> None:
    for folder in ("a/model", "b/model", "c/model"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text("{}")
        (tmp_path / folder / "model.safetensors").write_bytes(bytes(200_000) + folder[:1].encode() * (folder[0] == "c"))
    names = [local_name(str(tmp_path / folder / "model")) for folder in "abc"]
    assert names[0] == names[1] != names[2]
    assert local_name("embedded") == local_name(str(MODEL_DIR)).replace("model:", "embedded:")
    assert local_name("org/name") == "transformers:org/name"


SECTION = 'name = "s"\n[[scorer]]\nname = "a"\nprovider = "transformers"\n'


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("", "model: is missing: the provider 'transformers'"),
        ('model = "embedded"\nbase_url = "http://localhost:1/v1"', "is not read by provider 'transformers'"),
        ('model = "embedded"\ntemperature = 0.5', "takes the likeliest token"),
    ],
)
def test_settings_that_this_provider_cannot_keep_are_refused(tmp_path: Path, keys: str, reason: str) -> None:
    with pytest.raises(StudyError, match=reason):
        Study.parse(SECTION + keys, tmp_path)


def test_a_relative_folder_is_one_beside_the_study(tmp_path: Path) -> None:
    study = Study.parse(SECTION + 'model = "./lm"', tmp_path)
    assert study.scorers[0].model == str(tmp_path / "lm")
    assert Study.parse(SECTION + 'model = "smollm2"', tmp_path).scorers[0].model == "smollm2"


def test_stored_answers_and_plans_load_no_torch(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "answers.sqlite")
    messages: list[dict[str, Any]] = [{"role": "user", "content": "x"}]
    code = (
        "import json, sys\n"
        "from catalog.answers import Answers, canonical_request\n"
        "from scoring.client.local_chat import LocalChat\nfrom scoring.client.local_name import local_name\n"
        "from scoring.kernels import judgements, labels\n"
        f"answers, messages = Answers({str(answers.path)!r}), json.loads({json.dumps(json.dumps(messages))})\n"
        "request = canonical_request(local_name('embedded'), {}, messages)\n"
        "answers.put(request, 'kept', prompt_tokens=1, completion_tokens=1)\n"
        "(_, answer), = LocalChat('embedded', answers=answers).complete_many([messages])\n"
        "assert (answer.text, answer.stored) == ('kept', True)\n"
        "sys.exit(','.join({'torch', 'transformers', 'openai'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
