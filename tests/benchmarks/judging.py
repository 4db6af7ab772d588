"""Measures what saeql itself costs per judgement by an endpoint: CPU time, requests in flight, bytes on the disk.

    python tests/benchmarks/judging.py [--features 200] [--windows 100] [--jobs 32] [--json]

The endpoint is the rule server, in a process of its own, which takes 0.2 seconds to answer; the CPU time is that of the
client's process alone, after a first request that loads what it needs.
"""

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from catalog.answers import Answers
from scoring.client.chat import ChatClient
from scoring.client.language_client import Sending
from scoring.scorers.detection import PredictSettings, predict_many
from scoring.windows import Label
from tests.scoring.chat_server import serving
from tests.scoring.rule_server import Rules

LEXICON = {"war": ("army", "troops", "bomb"), "algebra": ("matrix", "vector", "rank"), "law": ("court", "clause")}
WORDS = [
    "the", "of", "and", "a", "to", "in", "it", "was", "that", "some", "many", "people", "there", "then", "with",
    "other", "small", "old", "new", "went", "said", "from",
]  # fmt: skip


def serve(pipe: Connection, delay: float) -> None:
    """The server; at the end, the most requests that it had at once."""
    with serving() as endpoint:
        endpoint.answer = Rules(LEXICON, delay=delay)
        pipe.send(endpoint.url)
        pipe.recv()
        pipe.send((endpoint.most_at_once, len(endpoint.requests)))


def tasks(features: int, windows: int) -> list[tuple[Label, list[list[str]]]]:
    rng = random.Random(0)
    made = []
    for feature in range(features):
        name = list(LEXICON)[feature % len(LEXICON)]
        texts = [[f" {rng.choice(WORDS)}" for _ in range(31)] for _ in range(windows)]
        for i, text in enumerate(texts):
            text.append(f" {rng.choice(LEXICON[name])}" if i % 2 else f" {i}")
        made.append((Label(f"words about {name}, as feature {feature} has them"), texts))
    return made


def measure(features: int, windows: int, jobs: int, delay: float) -> dict[str, Any]:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, delay), daemon=True)
    server.start()
    url = ours.recv()
    with tempfile.TemporaryDirectory() as folder, Answers(Path(folder) / "answers.sqlite") as answers:
        client = ChatClient("m", url, answers=answers, sending=Sending(jobs=jobs))
        client.complete([{"role": "user", "content": "Hi"}])
        asked = tasks(features, windows)
        begun, cpu = time.perf_counter(), time.process_time()
        judged = [one for _, found in predict_many(asked, PredictSettings(), client) for one in found]
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        answers.close()
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    ours.send(None)
    most, requests = ours.recv()
    server.join()
    assert len(judged) == features * windows
    right = sum(one.predicted == bool(i % 2) for i, one in enumerate(judged))
    return {
        "judgements": len(judged),
        "right": right,
        "with_probability": sum(one.probability is not None for one in judged),
        "requests": requests - 1,
        "in_flight": most,
        "seconds": round(seconds, 2),
        "cpu_ms_per_judgement": round(1000 * cpu / len(judged), 3),
        "answer_bytes_per_request": round(size / requests),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=32)
    parser.add_argument("--delay", type=float, default=0.2, help="seconds that an answer takes")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = measure(chosen.features, chosen.windows, chosen.jobs, chosen.delay)
    lines = [json.dumps(found)] if chosen.json else [f"{name:26} {value}" for name, value in found.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
