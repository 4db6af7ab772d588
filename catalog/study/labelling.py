"""Reads [[explainer]], [[scorer]] and [primary]: who labels, who judges, whose labels the view `features` shows."""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from catalog.errors import InputError
from catalog.study.base import Count, FilePath, Name, Price, Section
from catalog.study.request_body import check_request
from catalog.trust.endpoints import endpoint


class Endpoint(Section):
    """Who answers: the lexical provider (no language model), or any OpenAI-compatible endpoint.

    The key is read from OPENAI_API_KEY, never from a study file.
    """

    provider: Literal["lexical", "openai"] = "lexical"
    """lexical needs no language model and no network."""
    model: str | None = None
    """Model of the endpoint."""
    base_url: str | None = None
    """Where the endpoint is; none: OPENAI_BASE_URL, else OpenAI."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Of the sampler."""
    max_tokens: Count = 1000
    """Longest answer in tokens, reasoning included."""
    jobs: Count = 8
    """Requests at a time."""
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
    def _needed_by_openai(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("provider") == "openai" and not value:
            raise ValueError("is missing: the provider 'openai' needs the name of a model")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        try:
            return value if value is None else endpoint(value).url and value
        except InputError as error:
            raise ValueError(str(error).removeprefix("base_url ")) from None

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
    protocol: Literal["detection"] = "detection"
    """detection: does the feature fire in this window, given only the label."""
    examples: Count | None = None
    """Test windows of each class judged per label; none: 100 by a lexical scorer, 50 by an endpoint."""
    nulls: Count | None = None
    """Other features' labels judged on a feature's windows, the null; none: 5 by a lexical scorer, 1 by an endpoint."""
    batch: Count = 5
    """Windows per request."""

    @field_validator("examples", "nulls")
    @classmethod
    def _by_provider(cls, value: int | None, info: ValidationInfo) -> int:
        free = info.data.get("provider") == "lexical"
        return value or {"examples": 100 if free else 50, "nulls": 5 if free else 1}[str(info.field_name)]


class Primary(Section):
    """Names of the rows that the view `features` shows; none: the first of each."""

    concept: Name | None = None
    """Whose separation."""
    explainer: Name | None = None
    """Whose labels."""
    scorer: Name | None = None
    """Whose scores."""
