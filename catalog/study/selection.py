"""Reads [[selection]]: the documents of a pool that a specialized SAE is trained on.

The methods are those of Specialized SAEs, section 2.3, with its baselines.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from catalog.study.base import Count, Name, NameOrPath, Names, Section, Texts, is_folder, resolved

_SEED = {"seed", "seed_splits", "seed_documents", "seed_tokens", "evaluations", "tokens"}
_TRACIN = {"parent", "scale", "sparsity", "candidates"}
# The keys that a method reads besides name, method and pool.
_KEYS: dict[str, set[str]] = {
    "full": set(),
    "random": {"tokens", "rng"},
    "seed": _SEED,
    "bm25": _SEED | {"over_seed"},
    "dense": _SEED | {"over_seed", "encoder"},
    "bm25+tracin": _SEED | _TRACIN | {"over_seed"},
    "dense+tracin": _SEED | _TRACIN | {"over_seed", "encoder"},
}
# The keys that a method that reads them cannot do without.
_REQUIRED = {
    "tokens": "how many tokens to select",
    "seed": "the corpus of the seed documents",
    "parent": "the SAE whose gradients are compared",
}
Splits = Annotated[tuple[Literal["train", "val", "test"], ...], Field(strict=False, min_length=1)]


class Selection(Section):
    """Documents of a pool, chosen by how they relate to a seed set, up to a budget of tokens."""

    name: Name
    """Its name in the catalog."""
    method: Literal["full", "random", "seed", "bm25", "dense", "bm25+tracin", "dense+tracin"] = "dense"
    """full: the whole pool; random: by hash; seed: the seed documents again and again; bm25, dense: what is most like
    the seed; +tracin: candidates of that, reranked by the gradients of the parent's loss."""
    pool: Name
    """Corpus whose documents of split train are chosen from."""
    seed: Name | None = None
    """Corpus that the seed documents are from; it may be the pool."""
    seed_splits: Splits = ("train", "val")
    """Splits of it that are seeds; test is refused when the selection is made. Method seed takes those of train alone,
    since it trains on them."""
    seed_documents: Texts = ()
    """Hashes of the seed documents; none: all of seed_splits."""
    seed_tokens: Count | None = None
    """Take seed documents in order of their hash until this many tokens are reached; none: all."""
    evaluations: Names | None = None
    """Corpora that SAEs are evaluated on: a seed text that stands in their split test is refused."""
    tokens: Count | None = None
    """Budget: documents are taken by rank until this many tokens are reached, the one that crosses it included."""
    over_seed: Literal["mean", "max"] | None = None
    """From the scores by each seed document to one: their mean or the largest; none: mean for bm25, max for dense."""
    encoder: str = Field(default="all-MiniLM-L6-v2", min_length=1)
    """dense: the packaged default, a directory, or a hub id such as facebook/contriever (mean pooling)."""
    parent: NameOrPath | None = None
    """tracin: the SAE that will be fine-tuned, whose loss is differentiated; a name, or a folder as in [[sae]]."""
    scale: float | None = Field(default=None, gt=0)
    """tracin: what rows are multiplied by, for a parent on disk that asks for a factor and does not hold it."""
    sparsity: float | None = Field(default=None, ge=0)
    """tracin with a relu parent: lambda of its L1 norm, for rows as they are; none: what its training ended with."""
    candidates: float = Field(default=6.0, ge=1)
    """tracin: how many times the budget the first stage hands on. Specialized SAEs keeps 1% of OpenWebText: 6 times."""
    rng: int = Field(default=0, ge=0, lt=2**32)
    """random: another number is another draw."""

    @field_validator(
        "seed",
        "seed_splits",
        "seed_documents",
        "seed_tokens",
        "evaluations",
        "tokens",
        "over_seed",
        "encoder",
        "parent",
        "scale",
        "sparsity",
        "candidates",
        "rng",
    )
    @classmethod
    def _fits_method(cls, value: Any, info: ValidationInfo) -> Any:
        method, name = info.data.get("method"), str(info.field_name)
        if method is None:
            return value
        reads = _KEYS[method]
        if name not in reads and value != cls.model_fields[name].default:
            raise ValueError(
                f"is not read by method {method!r}, which reads {', '.join(sorted(reads)) or 'pool alone'}"
            )
        if name in reads and name in _REQUIRED and value is None:
            raise ValueError(f"is missing: method {method!r} needs {_REQUIRED[name]}")
        return value

    @field_validator("scale")
    @classmethod
    def _of_a_folder(cls, value: float | None, info: ValidationInfo) -> float | None:
        parent = info.data.get("parent")
        if value is not None and parent is not None and not is_folder(parent):
            raise ValueError("belongs to a parent on disk: name its folder")
        return value

    @field_validator("seed_splits")
    @classmethod
    def _trainable(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("method") == "seed" and "train" not in value:
            raise ValueError("has no 'train': method 'seed' trains on these documents, and training reads no others")
        return value

    @field_validator("encoder")
    @classmethod
    def _directory(cls, value: str, info: ValidationInfo) -> str:
        """A path stays right when the study is used from elsewhere; a hub id stays as it is."""
        path = resolved(value, info)
        return path if value.startswith((".", "/", "~")) or value.endswith("/") or Path(path).is_dir() else value

    @property
    def first_stage(self) -> str:
        """The method without its reranking."""
        return self.method.removesuffix("+tracin")

    @property
    def reranked(self) -> bool:
        """Whether TracIn decides the order."""
        return self.method.endswith("+tracin")

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of `seed_splits` that give seed documents."""
        return ("train",) if self.method == "seed" else self.seed_splits

    @property
    def pooling(self) -> str:
        """`over_seed`, its default filled in."""
        return self.over_seed or ("mean" if self.first_stage == "bm25" else "max")
