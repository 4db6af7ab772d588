"""The n-gram baseline against a second implementation in dictionaries, and parts of the embedded model's training."""

import math
from collections import Counter
from itertools import islice, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.embedded.ngrams import KneserNey
from ingest.embedded.train import BOS, Muon, batches, cut, train_tokenizer

VOCABULARY = 6


def streams(seed: int = 0, n: int = 12) -> list[np.ndarray]:
    """Documents over 5 tokens after a BOS of 0, with habits that a longer history sees better."""
    rng = np.random.default_rng(seed)
    found = []
    for length in rng.integers(1, 30, n):
        ids = [0]
        for _ in range(length):
            ids.append(int(rng.integers(1, 6)) if rng.random() < 0.4 else 1 + (ids[-1] * 2 + len(ids) % 2) % 5)
        found.append(np.array(ids, np.int16))
    return found


class Naive:
    """Kneser-Ney by its definition: counts of the highest order, numbers of left contexts below it."""

    def __init__(self, documents: list[np.ndarray], order: int) -> None:
        self.order = order
        self.counts: dict[int, Counter[tuple[int, ...]]] = {order: Counter()}
        for document in documents:
            padded = [int(document[0])] * (order - 2) + document.tolist()
            self.counts[order].update(tuple(padded[i : i + order]) for i in range(len(padded) - order + 1))
        for n in range(order - 1, 0, -1):
            self.counts[n] = Counter(gram[1:] for gram in self.counts[n + 1])

    def probability(self, history: tuple[int, ...], token: int) -> float:
        n = len(history) + 1
        lower = 1 / VOCABULARY if n == 1 else self.probability(history[1:], token)
        counts = self.counts[n]
        followers = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == history}
        if not followers:
            return lower
        of = Counter(counts.values())
        discount = of[1] / (of[1] + 2 * of[2]) if of[1] else 0.5
        total = sum(followers.values())
        return max(followers.get(token, 0) - discount, 0) / total + discount * len(followers) / total * lower


@pytest.mark.parametrize("order", [2, 3, 4])
def test_probabilities_equal_a_second_implementation(order: int) -> None:
    train, held_out = streams(0), streams(1, 6)
    ours, naive = KneserNey(train, order, VOCABULARY), Naive(train, order)
    for document in [*train[:4], *held_out]:
        padded = [0] * (order - 2) + document.tolist()
        expected = [
            -math.log(naive.probability(tuple(padded[i : i + order - 1]), padded[i + order - 1]))
            for i in range(len(padded) - order + 1)
        ]
        np.testing.assert_allclose(ours.nats(document), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [2, 3, 4])
@given(history=st.lists(st.integers(0, 5), min_size=1, max_size=5))
@settings(max_examples=25)
def test_probabilities_sum_to_one_after_any_history(order: int, history: list[int]) -> None:
    model = KneserNey(streams(), order, VOCABULARY)
    total = sum(math.exp(-model.nats(np.array([*history, token]))[-1]) for token in range(VOCABULARY))
    assert total == pytest.approx(1, abs=1e-12)


def test_a_token_that_was_never_seen_has_some_probability() -> None:
    model = KneserNey([np.array([0, 1, 2, 1, 2, 1, 2, 1, 2])], 3, VOCABULARY)
    assert np.isfinite(model.nats(np.array([0, 5, 3, 1, 2]))).all()


def test_a_longer_history_tells_more_on_the_training_text() -> None:
    train = streams(n=60)
    bigram, trigram = (KneserNey(train, order, VOCABULARY) for order in (2, 3))
    nats = [float(np.concatenate([model.nats(s) for s in train]).mean()) for model in (bigram, trigram)]
    assert nats[1] < nats[0] < math.log(5)


def test_large_vocabularies_fit_the_key_of_four_tokens() -> None:
    size = 2**15
    stream = np.array([0, size - 1, size - 2, size - 1, size - 2, size - 1], np.int32)
    nats = KneserNey([stream], 4, size).nats(stream)
    assert np.isfinite(nats).all()
    assert nats[-1] < math.log(size) / 2


def test_a_document_is_cut_into_sequences_that_each_begin_with_its_bos() -> None:
    documents = [np.arange(n) for n in (1, 2, 8, 9, 15, 16)]
    sequences = cut(documents, 8)
    assert all(sequence[0] == 0 and 2 <= len(sequence) <= 8 for sequence in sequences)
    assert [s.tolist() for s in sequences[-3:]] == [[0, *range(1, 8)], [0, *range(8, 15)], [0, 15]]
    assert np.concatenate([s[1:] for s in sequences]).tolist() == [i for d in documents for i in d[1:].tolist()]


def test_batches_hold_every_sequence_once_a_round_within_their_tokens() -> None:
    rng = np.random.default_rng(0)
    sequences = [np.concatenate([[0], np.full(n, i + 1)]) for i, n in enumerate(rng.integers(1, 20, 100))]
    seen: list[int] = []
    stream = batches(sequences, 64, np.random.default_rng(1))
    while len(seen) < len(sequences):
        batch = next(stream)
        assert batch.numel() <= 64
        for row in batch:
            real = row[row >= 0]
            assert (row[len(real) :] == -1).all()
            seen.append(int(real[1]) - 1)
            assert real.tolist() == sequences[seen[-1]].tolist()
    assert sorted(seen) == list(range(len(sequences)))


def test_batches_follow_from_their_seed() -> None:
    sequences = cut([np.arange(40)] * 9, 8)
    first, again = (list(islice(batches(sequences, 32, np.random.default_rng(5)), 20)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_muon_steps_along_a_nearly_orthogonal_update(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(shape))
    gradient = torch.randn(shape)
    weight.grad = gradient.clone()
    Muon([weight], lr=1.0).step()
    update = -weight.detach() / max(1.0, shape[0] / shape[1]) ** 0.5
    values = torch.linalg.svdvals(update)
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    aligned = ((u.T @ update) @ v.T).diagonal()
    assert float(aligned.min()) > 0.3, "the update keeps the gradient's singular vectors"


def test_muon_averages_over_steps() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(8, 8) for _ in range(2)]
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimiser = Muon([weight], lr=0.1, momentum=0.9)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimiser.step()
    average = 0.9 * (0.1 * gradients[0]) + 0.1 * gradients[1]
    torch.testing.assert_close(optimiser.state[weight]["average"], average)


def test_the_tokenizer_splits_digits_and_puts_a_bos_first() -> None:
    tokenizer = train_tokenizer(["the matrix of 1234 rows"] * 5, 300)
    ids = tokenizer.encode("matrix 1234")
    assert ids.tokens[0] == BOS
    assert tokenizer.token_to_id(BOS) == 0
    assert [token for token in ids.tokens if token.isdigit()] == list("1234")
    assert all(tokenizer.token_to_id(a + b) is None for a, b in product("0123456789", repeat=2))
    assert tokenizer.decode(ids.ids) == "matrix 1234"
