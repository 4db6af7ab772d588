"""Encoders by folder and by name: a plain BERT, as Contriever is one, gets the mean over its tokens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, BertTokenizerFast

from catalog.errors import InputError
from ingest.model.text_encoder import encoder_digest, encoder_dimension, load_encoder

REPOSITORY = Path(__file__).parents[2]
WORDS = ("matrix", "vector", "of", "a", "soup", "with", "carrots", "##s")
TEXTS = ["a matrix of vectors", "soup", "soup with carrots a a a"]
DIMENSION = 12


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT and its tokenizer, without any file of sentence-transformers."""
    folder = tmp_path_factory.mktemp("plain") / "contriever"
    folder.mkdir()
    (folder / "words.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)))
    BertTokenizerFast(vocab=str(folder / "words.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=DIMENSION,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    BertModel(shape).save_pretrained(folder)
    return folder


def by_hand(folder: Path) -> npt.NDArray[np.float32]:
    """The mean of each text's last hidden states, text by text, so that nothing is padded."""
    tokenizer, model = BertTokenizerFast.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]
    found: npt.NDArray[np.float32] = torch.stack([state.mean(0) for state in states]).numpy()
    return found


def test_a_plain_bert_in_a_folder_gives_the_mean_over_tokens(plain: Path) -> None:
    np.testing.assert_allclose(load_encoder(str(plain)).encode(TEXTS), by_hand(plain), atol=1e-5)
    assert encoder_dimension(str(plain)) == DIMENSION


def test_it_is_found_by_its_name_in_the_hubs_cache(plain: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--facebook--contriever" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(plain)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    program = (
        "import json, sys; from ingest.model.text_encoder import load_encoder; "
        "print(json.dumps(load_encoder('facebook/contriever').encode(json.loads(sys.argv[1])).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(TEXTS)],
        cwd=REPOSITORY,
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), by_hand(plain), atol=1e-5)


def test_an_encoder_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"the embedding model 'nobody/nothing' cannot be loaded: .* Name a directory"):
        load_encoder("nobody/nothing")


def test_a_digest_changes_with_the_weights_alone(plain: Path, tmp_path: Path) -> None:
    for path in plain.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = encoder_digest(str(tmp_path))
    assert before == encoder_digest(str(plain))
    (tmp_path / "README.md").write_text("about it")
    assert encoder_digest(str(tmp_path)) == before
    torch.manual_seed(1)
    BertModel(BertConfig.from_pretrained(plain)).save_pretrained(tmp_path)
    assert encoder_digest(str(tmp_path)) != before
