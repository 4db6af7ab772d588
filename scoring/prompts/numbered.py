"""Numbers texts as lines of a prompt, and sums what an answer has cost."""

from collections.abc import Sequence

from catalog.digest import digest
from catalog.errors import SaeqlError
from scoring.client.language_client import Answer, LLMError
from scoring.prompts import template


def paid(answer: Answer | SaeqlError) -> tuple[int, int, float]:
    if isinstance(answer, Answer | LLMError):
        return answer.prompt_tokens, answer.completion_tokens, answer.cost
    return 0, 0, 0.0


def numbered_lines(heading: str, texts: Sequence[str]) -> str:
    return "\n".join(f"{heading} {i}: {template.one_line(text)}" for i, text in enumerate(texts, 1))


def message_digest(value: object) -> str:
    return "blake2b:" + digest(value)
