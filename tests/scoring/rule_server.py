"""Answers prompts as a language model that knows a lexicon would, with log-probabilities, and with faults at a rate.

A label means the words of each of the lexicon's names that stand in it, and what it quotes. A window of a detection
prompt gets 1 if it holds one of these words; an explainer's prompt gets the name whose words are marked most often.
Whether a request meets with a fault follows from the seed, its text and how often that text came: not from the order
in which threads arrive.
"""

import json
import math
import random
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.scoring.chat_server import Reply

MEANWHILE = ("429", "500", "hang", "drop")
"""Faults after which the same request may be sent again: nothing was answered."""
ANSWERED = ("cut", "short", "prose", "null")
"""Faults of an answer that came, and was paid for."""
HARMLESS = ("lines", "think", "no logprobs")
"""What a careful reader understands."""
REFUSED = ("refused response_format", "refused logprobs")
FAULTS = (*MEANWHILE, *ANSWERED, *HARMLESS, *REFUSED)

_OTHERS = 0.1
"""Probability of all other tokens at an answer's place."""
_WORD = re.compile(r"[a-z]+")


@dataclass
class Rules:
    """The rules, to be called as `Endpoint.answer`."""

    lexicon: Mapping[str, Sequence[str]]
    """Name -> words."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """Name of a fault -> share of requests that meet with it."""
    seed: int = 0
    delay: float = 0.0
    """Seconds that every answer takes."""
    hang: float = 1.0
    """Seconds of a hang."""
    retry_after: float = 0.05
    answered: Counter[str] = field(default_factory=Counter)
    """By request as JSON: completions that were sent."""
    met: Counter[str] = field(default_factory=Counter)
    """Faults that were met with."""
    _came: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, number: int, body: dict[str, Any]) -> Reply:
        key = json.dumps(body, sort_keys=True)
        with self._lock:
            self._came[key] += 1
            fault = self._fault(key, body)
            if fault:
                self.met[fault] += 1
            if fault not in (*MEANWHILE, *REFUSED):
                self.answered[key] += 1
        if fault == "429":
            said = {"error": {"message": "rate limit reached", "type": "requests"}}
            return Reply(status=429, body=json.dumps(said), headers={"Retry-After": str(self.retry_after)})
        if fault == "500":
            return Reply(status=500, body="oops")
        if fault == "drop":
            return Reply(drop=True)
        if fault in REFUSED:
            said = {"error": {"message": f"{fault.removeprefix('refused ')} is not supported by this model"}}
            return Reply(status=400, body=json.dumps(said))
        reply = self.judged(body) if self.windows(body) else self.explained(body)
        reply.delay = self.hang if fault == "hang" else self.delay
        if body.get("logprobs") and fault != "no logprobs":
            reply.logprobs = _logprobs(reply.content or "", self.probabilities(body))
        return _spoiled(reply, fault)

    def _fault(self, key: str, body: Mapping[str, Any]) -> str | None:
        drawn = random.Random(f"{self.seed} {self._came[key]} {key}").random()
        for name, share in self.faults.items():
            drawn -= share
            if drawn < 0:
                return None if name in REFUSED and name.removeprefix("refused ") not in body else name
        return None

    def windows(self, body: Mapping[str, Any]) -> list[str]:
        """The windows that a detection prompt asks about."""
        asked = [m["content"] for m in body["messages"] if m["role"] == "user" and m["content"].startswith("Descr")]
        return re.findall(r"^Example \d+: (.*)$", asked[-1], re.MULTILINE) if asked else []

    def probabilities(self, body: Mapping[str, Any]) -> list[float]:
        """Of 1, for each window: the more of the label's words are in it, the larger."""
        windows = self.windows(body)
        if not windows:
            return []
        asked = next(m["content"] for m in reversed(body["messages"]) if m["content"].startswith("Description: "))
        words = self.meant(asked.partition("\n")[0].removeprefix("Description: "))
        hits = [sum(word in words for word in _WORD.findall(window.lower())) for window in windows]
        return [1 - 0.4 / n if n else 0.02 for n in hits]

    def meant(self, label: str) -> set[str]:
        """The words that a label means."""
        found = set(_WORD.findall(" ".join(re.findall(r'"([^"]*)"', label)).lower()))
        names = _WORD.findall(label.lower())
        return found.union(*(words for name, words in self.lexicon.items() if name in names))

    def judged(self, body: Mapping[str, Any]) -> Reply:
        values = [int(p > 0.5) for p in self.probabilities(body)]
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
        if schema is None:
            return Reply(str(values))
        name = next(iter(schema["properties"]))
        return Reply(json.dumps({name: values}))

    def explained(self, body: Mapping[str, Any]) -> Reply:
        """A label of nine words or more from the words that are marked in the last message."""
        text = body["messages"][-1]["content"]
        marked = Counter(_WORD.findall(" ".join(re.findall(r"<<(.*?)>>", text)).lower()))
        votes = {name: sum(marked[word] for word in words) for name, words in self.lexicon.items()}
        best = max(votes, key=lambda name: votes[name], default="")
        if votes.get(best):
            return Reply(
                f"They share a subject.\n[EXPLANATION]: words about {best} that stand in texts on this subject"
            )
        quoted = ", ".join(f'"{word}"' for word, _ in marked.most_common(3))
        return Reply(f"[EXPLANATION]: the words {quoted or 'of nothing'} wherever they stand in a text")


def _logprobs(content: str, probabilities: Sequence[float]) -> list[dict[str, Any]]:
    """Of tokens that are one digit, or what stands between digits; a tenth of the probability goes to others."""
    found: list[dict[str, Any]] = []
    values = iter(probabilities)
    for token in re.findall(r"\d|\D+", content):
        top = {token: 0.999}
        if token.isdigit() and (p := next(values, None)) is not None:
            ones = (1 - _OTHERS) * p
            top = {"1": ones, "0": 1 - _OTHERS - ones, " ": 0.06, "2": 0.02, "]": 0.01}
        tops = [{"token": t, "logprob": math.log(max(p, 1e-9)), "bytes": None} for t, p in top.items()]
        found.append({"token": token, "logprob": math.log(top[token]), "top_logprobs": tops})
    return found


def _spoiled(reply: Reply, fault: str | None) -> Reply:
    """An answer as a fault leaves it."""
    text = reply.content or ""
    match fault:
        case "cut":
            # In the middle of a list's last value but one, or of a label.
            reply.content, reply.finish = text[: max(len(text) - 4, 1)], "length"
        case "short":
            reply.content = re.sub(r"(, )?\d\]", "]", text) if "]" in text[-2:] else "[EXPLANATION]:"
        case "prose":
            reply.content = "Sure! I have read all of them, and they are much alike."
        case "null":
            reply.content, reply.thought, reply.logprobs = None, "Let me think about it. " + text, None
        case "lines":
            reply.content = text.replace(", ", ",\n  ").replace("[", "[\n  ", 1) if text.endswith(("]", "}")) else text
        case "think":
            reply.content = f"<think>\nIt may be [1, 1].\n</think>\n{text}"
    if reply.content != text:
        reply.logprobs = None
    return reply
