"""Turns a conversation into a model's tokens by its chat template; text of windows never becomes a special token.

The template is rendered with stand-ins for the messages' texts, and each text is tokenised by itself, special tokens as
plain characters: a window that spells the end of a turn ends none.
"""

import re
from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from catalog.errors import InputError, first_line
from scoring.client.language_client import Message

_STAND_IN = re.compile("\ue000([0-9]+)\ue001")
_PLAIN = {"system": "", "user": "User: ", "assistant": "Assistant: "}
"""How the turns of a model without a template begin."""


def chat_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], bos: int | None) -> list[int]:
    """Ids `[tokens]` of a conversation, up to where the model's answer begins.

    A model without a chat template is given turns in plain text, after its BOS. If a template knows no system message,
    its text begins the first message of the user. Raises InputError for a template that fails.
    """
    texts = [message["content"] for message in messages]
    ids: list[int] = []
    at = 0
    rendered = _rendered(tokenizer, messages)
    for match in _STAND_IN.finditer(rendered):
        ids += _encoded(tokenizer, rendered[at : match.start()], special=True)
        ids += _encoded(tokenizer, texts[int(match[1])], special=False)
        at = match.end()
    ids += _encoded(tokenizer, rendered[at:], special=True)
    return [*([bos] if bos is not None and not tokenizer.chat_template else []), *ids]


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    turns = [{"role": message["role"], "content": f"\ue000{i}\ue001"} for i, message in enumerate(messages)]
    if not tokenizer.chat_template:
        return "".join(f"{_PLAIN[turn['role']]}{turn['content']}\n\n" for turn in turns) + "Assistant:"
    try:
        found = _template(tokenizer, turns)
        if len(_STAND_IN.findall(found)) == len(turns):
            return found
    except (TemplateError, ValueError) as error:
        found = first_line(error)
    if turns[0]["role"] == "system" and len(turns) > 1:
        first = {"role": turns[1]["role"], "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
        try:
            merged = _template(tokenizer, [first, *turns[2:]])
        except (TemplateError, ValueError) as error:
            raise InputError(f"the model's chat template cannot be used: {first_line(error)}") from error
        if len(_STAND_IN.findall(merged)) == len(turns):
            return merged
    raise InputError(f"the model's chat template leaves messages out or refuses them: {found[:200]!r}")


def _template(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    if not text:
        return []
    found: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
    return found
