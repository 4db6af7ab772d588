"""Checks that a corpus is asked for as it was cut: for one model, in sequences of one length, into the same splits."""

import json

from catalog import Catalog
from catalog.errors import InputError
from catalog.study.text import Corpus
from ingest.model.language_model import LanguageModel
from ingest.model.trial_passes import embedded_tokens, longest
from ingest.text.splits import HELD_OUT, Shares
from ingest.text.tokenise import Tokenised


def check_cut(catalog: Catalog, corpus: Corpus, model: LanguageModel) -> None:
    """Raise InputError if the corpus was cut or split otherwise, or its sequences are longer than the model reads."""
    there = catalog.rows("SELECT model, ctx_len, source FROM corpora WHERE corpus = ?", [corpus.name])
    if there:
        *cut, source = there[0]
        if cut != [model.spec.name, corpus.ctx_len]:
            raise InputError(
                f"corpus {corpus.name!r} was cut for model {cut[0]!r} with ctx_len {cut[1]}, "
                f"not {model.spec.name!r} with {corpus.ctx_len}: give it another name"
            )
        _check_shares(corpus, HELD_OUT._replace(**{k: v for k, v in json.loads(source).items() if k in Shares._fields}))
    most = longest(model.network)
    if most is not None and corpus.ctx_len > most:
        raise InputError(
            f"corpus {corpus.name!r} has ctx_len {corpus.ctx_len}, and model {model.spec.name!r} reads at most "
            f"{most} tokens: set ctx_len to {most} or less"
        )


def _check_shares(corpus: Corpus, there: Shares) -> None:
    """A document that changed from test to train would score labels and SAEs on what they were made from."""
    asked = Shares(corpus.val, corpus.test)
    if asked != there:
        raise InputError(
            f"corpus {corpus.name!r} has val = {there.val:g} and test = {there.test:g}, and the study says "
            f"val = {asked.val:g} and test = {asked.test:g}: documents keep their split; give the corpus another name"
        )


def check_embedded(one: Tokenised, model: LanguageModel) -> None:
    """Raise InputError for a token that the model has no embedding for: a tokenizer may know more than its model."""
    embedded = embedded_tokens(model.network)
    highest = int(one.ids.max())
    if highest >= embedded:
        raise InputError(
            f"document {one.source} holds token {highest} ({model.tokenizer.decode([highest])!r}), and model "
            f"{model.spec.name!r} has embeddings for {embedded} tokens: its tokenizer is not the model's own"
        )
