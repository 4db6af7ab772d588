"""Asks once more, in the same conversation, for an answer that has not the form that was asked for."""

from collections.abc import Sequence

from scoring.client.language_client import Message

_LONGEST = 2_000
"""Characters of the answer that go back: more of it would only cost."""


def corrected(messages: Sequence[Message], answer: str, reason: str, n: int) -> list[dict[str, str]]:
    """The conversation that asks for a list of `n` values again, after an answer that breaks off or is none."""
    wish = (
        f"That answer cannot be used: {reason}. Answer once more, for all {n} examples, with a list of exactly {n} "
        "values, each 0 or 1, in the order of the examples. Write nothing but the list."
    )
    turns = [{"role": "assistant", "content": answer[:_LONGEST]}, {"role": "user", "content": wish}]
    return [*(dict(message) for message in messages), *turns]
