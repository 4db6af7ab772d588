"""Cuts a model's thoughts off its answer: drafts that it rejected are no part of it.

Models mark their thoughts by tags of several kinds. Some prompts open the block already, so that an answer has its end
alone; and an answer whose block never ends holds nothing but thoughts.
"""

import re

_NAMES = "think|thinking|thought|thoughts|reasoning|reason|reflection|analysis|scratchpad"
# <think>, </ think >, <seed:think>, <antThinking>; ◁think▷; [THINK]; <|begin_of_thought|>, <|START_THINKING|>.
_TAG = re.compile(
    rf"<\s?(?P<end1>/?)\s?(?:[a-z]{{1,20}}:|ant)?(?P<name1>{_NAMES})(?:\s[^<>]{{0,200}})?>"
    rf"|◁\s?(?P<end2>/?)\s?(?P<name2>{_NAMES})\s?▷"
    rf"|\[(?P<end3>/?)(?P<name3>think)\]"
    rf"|<\|(?P<end4>/|end_of_|end_|)(?:begin_of_|start_)?(?P<name4>{_NAMES})\|>",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"<\|channel\|>\s?(\w{1,20})[^<]{0,200}<\|message\|>")
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start)\|>")
_BARE_FINAL = "assistantfinal"
_BARE_START = re.compile(r"\s*analysis(?=[A-Z\[])")
"""The channels of gpt-oss as servers leave them that drop special tokens: analysisHm. ...assistantfinalThe answer."""


def behind(answer: str) -> tuple[str, str | None]:
    """(what an answer says after its last block of thoughts, the name of a block that never ends).

    The text is empty if such a block is open.
    """
    text, problem = _final_channel(answer)
    if problem is not None:
        return "", problem
    opened: dict[str, str] = {}
    end = 0
    for match in _TAG.finditer(text):
        name = next(filter(None, match.group("name1", "name2", "name3", "name4")))
        if any(match.group("end1", "end2", "end3", "end4")):
            opened.pop(name.lower(), None)
            end = match.end()
        else:
            opened[name.lower()] = match[0]
    return ("", next(iter(opened.values()))) if opened else (text[end:], None)


def _final_channel(answer: str) -> tuple[str, str | None]:
    """The last message of the channel `final`, of an answer in channels; else the answer."""
    channels = list(_CHANNEL.finditer(answer))
    if channels:
        last = channels[-1]
        if last[1].lower() != "final":
            return "", f"<|channel|>{last[1]}"
        return _MESSAGE_END.split(answer[last.end() :], maxsplit=1)[0], None
    if _BARE_START.match(answer):
        _, final, text = answer.rpartition(_BARE_FINAL)
        return (text, None) if final else ("", "analysis")
    return answer, None
