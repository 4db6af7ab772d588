"""Reads [[explainer]], [[scorer]] and [primary]: who labels, who judges, whose labels the view `features` shows."""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from catalog.errors import InputError
from catalog.study.base import Count, FilePath, Name, Price, Section
from catalog.study.request_body import check_request
from catalog.study.text import model_source
from catalog.trust.endpoints import endpoint

EMBEDDED = ("embedding", "example_embedding")
"""Protocols that compare embeddings, and ask nobody."""


class Endpoint(Section):
    """Who answers: no language model (lexical), any OpenAI-compatible endpoint, or a model of this process.

    The key is read from OPENAI_API_KEY, never from a study file.
    """

    provider: Literal["lexical", "openai", "transformers"] = "lexical"
    """lexical needs no language model and no network; transformers loads one here."""
    model: str | None = None
    """openai: the endpoint's name of it; transformers: as `source` of [model], such as "smollm2" or a folder."""
    base_url: str | None = None
    """Where the endpoint is; none: OPENAI_BASE_URL, else OpenAI."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Of the sampler."""
    max_tokens: Count = 1000
    """Longest answer in tokens, reasoning included."""
    jobs: Count = 8
    """openai: requests at a time."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """openai: tries, over all requests of this section; none: no limit."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """openai: tokens of prompts and answers; none: no limit."""
    structured: Literal["auto", "never"] = "auto"
    """openai: auto asks for lists by a JSON schema until the endpoint refuses, never does not."""
    logprobs: Literal["auto", "never"] = "auto"
    """openai: auto asks for log-probabilities of lists until the endpoint refuses, never does not."""
    price_prompt: Price = 0.0
    """Money per million prompt tokens."""
    price_completion: Price = 0.0
    """Money per million completion tokens."""
    timeout: float = Field(default=120.0, gt=0, le=86_400)
    """Seconds that one try of a request may take."""
    retries: int = Field(default=5, ge=0, le=100)
    """Further tries after 429, 5xx, a time-out or a lost connection."""
    request: dict[str, Any] = Field(default_factory=dict)
    """openai: merged into the body of each request; temperature or max_tokens = false leaves that key out."""
    template: FilePath | None = None
    """openai: a prompt template of your own (TOML: system, user, [[shots]]); its text is kept in the catalog."""
    threshold: float = Field(default=0.3, ge=0, le=1)
    """Share of a feature's 99th percentile of activation from which on it fires: in explainers' windows it is marked
    from there, in scorers' windows it counts as firing; 0: wherever it is above zero."""

    @field_validator("model")
    @classmethod
    def _needed_by_provider(cls, value: str | None, info: ValidationInfo) -> str | None:
        provider = info.data.get("provider")
        if provider in ("openai", "transformers") and not value:
            raise ValueError(f"is missing: the provider {provider!r} needs the name of a model")
        return model_source(value, info) if provider == "transformers" and value else value

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("provider") == "transformers":
            raise ValueError("is not read by provider 'transformers', which loads the model in this process")
        try:
            return value if value is None else endpoint(value).url and value
        except InputError as error:
            raise ValueError(str(error).removeprefix("base_url ")) from None

    @field_validator("temperature")
    @classmethod
    def _is_greedy(cls, value: float, info: ValidationInfo) -> float:
        if value and info.data.get("provider") == "transformers":
            raise ValueError(
                f"{value} is not read by provider 'transformers', which takes the likeliest token: leave it 0"
            )
        return value

    @field_validator("request")
    @classmethod
    def _can_be_sent(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_request(value)
        return value


class Explainer(Endpoint):
    """A named configuration that writes labels."""

    name: Name
    """Its name in the catalog."""
    examples: int = Field(default=10, ge=1, le=40)
    """openai: activating train windows shown; lexical reads all that were sampled."""
    sampling: Literal["top", "stratified"] = "stratified"
    """openai: the strongest windows; or some of each decile of the feature's windows, most from the upper half."""
    counterexamples: int = Field(default=6, ge=0, le=40)
    """openai: train windows shown in which the feature does not fire."""
    max_terms: Count = 8
    """lexical: the most terms in a label."""
    min_words: Count = 8
    """openai: the fewest words of a label."""
    max_words: Count = 15
    """openai: the most words of a label."""
    instructions: str = ""
    """Added to the prompt: what labels of this domain should name."""

    @field_validator("max_words")
    @classmethod
    def _above_min(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min_words", value):
            raise ValueError(f"{value} is below min_words {info.data['min_words']}")
        return value


class Scorer(Endpoint):
    """A named configuration that judges labels."""

    name: Name
    """Its name in the catalog."""
    protocol: Literal["detection", "embedding", "example_embedding", "fuzzing", "intruder"] = "detection"
    """detection: does the feature fire in this window, given only the label; fuzzing: on all marked tokens; embedding:
    how near is the label to the window. Without a label: example_embedding: how near are other firing windows;
    intruder: which of `batch` windows does not belong to the others."""
    examples: Count | None = None
    """Test windows of each class judged per label; none: 100 by a lexical scorer, 50 by embeddings or an endpoint."""
    nulls: Count | None = None
    """Other features' labels judged on a feature's windows, the null; none: 5 by a lexical scorer, 1 by an endpoint."""
    batch: Count = 5
    """Windows per request; intruder: of a trial, at least 3."""
    negatives: Literal["silent", "firing"] = "silent"
    """fuzzing: what is to be told from rightly marked windows: silent ones with random marks, or firing ones with wrong
    marks, which is harder."""

    @field_validator("protocol")
    @classmethod
    def _asks_whom_it_can(cls, value: str, info: ValidationInfo) -> str:
        if value in EMBEDDED and info.data.get("provider", "lexical") != "lexical":
            raise ValueError(f"{value!r} asks no language model: leave out provider")
        if value == "intruder" and info.data.get("provider", "lexical") == "lexical":
            raise ValueError("'intruder' asks a language model: name a provider and its model")
        return value

    @field_validator("batch")
    @classmethod
    def _has_others(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("protocol") == "intruder" and value < 3:
            raise ValueError(f"{value}: an intruder stands among at least 2 others, so that batch is at least 3")
        return value

    @field_validator("examples", "nulls")
    @classmethod
    def _by_provider(cls, value: int | None, info: ValidationInfo) -> int:
        free = info.data.get("provider") == "lexical"
        quick = free and info.data.get("protocol") not in EMBEDDED
        return value or {"examples": 100 if quick else 50, "nulls": 5 if free else 1}[str(info.field_name)]


class Primary(Section):
    """Names of the rows that the view `features` shows; none: the first of each."""

    concept: Name | None = None
    """Whose separation."""
    explainer: Name | None = None
    """Whose labels."""
    scorer: Name | None = None
    """Whose scores."""
