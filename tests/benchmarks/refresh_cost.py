"""Refresh: nothing to do, one percent more text, an edited prompt, each against the full build.

    python tests/benchmarks/refresh_cost.py [--tokens 1000000] [--keep DIR] [--seconds 60] [--json]

A GPT-NeoX of 4 layers x d 256 with random weights and a random TopK SAE of 8,192 latents, k 32, as in harvest.py.
The text is docstrings: those with the smallest hashes up to `--tokens`, then the next percent, which `add` brings.
Labels are asked of an HTTP server on this machine. `--keep` keeps the catalog, and uses it again if it is there.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(Path(__file__).parents[2]))

import click

from tests.benchmarks.harvest_rate import CTX, HOOKPOINT, WIDTH, K, make_model, random_sae

WORDS = ["matrix", "matrices", "eigenvalue", "eigenvalues", "linear", "diagonal", "vector", "vectors"]
SHORTLIST = 200


def write_texts(folder: Path, tokens: int) -> tuple[Path, Path]:
    """Two files of distinct docstrings in the order of their hashes: about `tokens` tokens, and a percent more."""
    from transformers import AutoTokenizer

    from catalog.study.text import Corpus
    from ingest.embedded import MODEL_DIR
    from ingest.text.sources import read_corpus
    from ingest.text.splits import unique_documents

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    texts = (text for _, text in read_corpus(Corpus(name="docs"), Counter()) if text.strip())
    ordered = sorted(unique_documents(texts), key=lambda pair: pair[0][16:])
    paths, seen, at = [], 0, 0
    for name, limit in (("first.jsonl", tokens), ("more.jsonl", tokens + tokens // 100)):
        paths.append(folder / name)
        with paths[-1].open("w", encoding="utf-8") as file:
            while at < len(ordered) and seen < limit:
                file.write(json.dumps({"text": ordered[at][1]}) + "\n")
                seen += len(tokenizer(ordered[at][1], add_special_tokens=False)["input_ids"])
                at += 1
    if seen < limit:
        raise click.ClickException(f"the installed packages have {seen} tokens of docstrings, not {limit}")
    return paths[0], paths[1]


def build(root: Path, tokens: int) -> None:
    """Text, model and sparse activations of the first file under `root`."""
    from catalog import Catalog
    from catalog.store.shards import file_digest
    from catalog.study.text import Corpus, Model
    from ingest.activations.harvest import harvest
    from ingest.model.identity import record_model
    from ingest.model.language_model import load_model
    from ingest.stored.reader import Reader
    from ingest.text.corpus import ingest_corpus

    make_model(root / "model")
    first, _ = write_texts(root, tokens)
    model = load_model(Model(name="neox", source=str(root / "model")))
    with Catalog.create(root / "catalog") as catalog:
        record_model(catalog, model)
        corpus = Corpus(name="docs", kind="jsonl", files=[str(first)], ctx_len=CTX, shard_tokens=125_000)
        ingest_corpus(catalog, corpus, model)
        sae = random_sae()
        sae.save(catalog.weights / "random")
        digest = file_digest(next((catalog.weights / "random").glob("*.safetensors")))
        row: dict[str, Any] = {"sae": "sae", "model": "neox", "hookpoint": HOOKPOINT, "architecture": "topk"}
        row |= {"width": WIDTH, "d": 256, "k": K, "weights": "random", "digest": digest, "config": "{}"}
        definition = json.dumps({"words": WORDS, "ignore_case": True})
        with catalog.write("the benchmark's configuration") as tx:
            tx.insert("saes", [row])
            concept = {"concept": "algebra", "kind": "words", "definition": definition, "shortlist": SHORTLIST}
            tx.insert("concepts", [concept])
        harvest(catalog, model, [Reader("sae", HOOKPOINT, sae, digest)], ["docs"])


SAMPLED = ("contexts_random", "contexts_stratum", "shortlist_auroc")
"""Steps over the shortlist, which the share of the full build leaves out."""
PLAIN = ("contexts_top", "feature_stats", "firing_ranks", "leaks", "separation", "shortlist", "token_frequency")
"""With what these read: the share of the full build."""
SQL_STEPS = (*PLAIN, *SAMPLED)


class Server(ThreadingHTTPServer):
    """An endpoint that labels whatever it is shown, and counts."""

    calls = 0
    delay = 0.0

    def handle_error(self, *_: object) -> None:
        """A client that was killed is what is measured here."""


@contextmanager
def endpoint() -> Iterator[Server]:
    """The server, running."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.calls += 1
            time.sleep(server.delay)
            words = body["messages"][-1]["content"].split()[-6:]
            answer = {"content": f"[EXPLANATION]: text with {' '.join(words)} or the like", "role": "assistant"}
            usage = {"prompt_tokens": 900, "completion_tokens": 20, "total_tokens": 920}
            said = {"choices": [{"message": answer, "finish_reason": "stop", "index": 0}], "usage": usage}
            text = json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m", **said}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()


def explainers(catalog: Any, server: Server, **top: Any) -> None:
    """Explainers `top` (10 strongest windows) and `stratified` (40 of every octave); `top` with these settings."""
    from catalog.study.labelling import Explainer

    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    common: dict[str, Any] = {"provider": "openai", "model": "m", "base_url": url, "min_words": 3, "max_words": 30}
    made = [
        Explainer(name="top", **common, **top),
        Explainer(name="stratified", sampling="stratified", examples=40, **common),
    ]
    rows = []
    for e in made:
        settings = json.dumps({**e.model_dump(mode="json"), "template": None})
        rows.append({"explainer": e.name, "provider": e.provider, "model": e.model, "settings": settings})
    with catalog.write("explainers") as tx:
        tx.execute("DELETE FROM lake.explainers")
        tx.insert("explainers", rows)


@dataclass
class Took:
    """What a refresh took."""

    steps: dict[str, float]
    """Seconds of each step that had work."""
    wall: float
    """Seconds from the start of the first step to the end of the last: steps run side by side."""
    cpu: float
    """CPU seconds meanwhile."""
    call: float
    """Seconds of the whole call, with what comes before the first step."""


def refreshed(catalog: Any, *names: str) -> Took:
    """Refresh. Raises ClickException if a step failed."""
    from queries.refresh.engine import Listener, refresh

    moments: list[tuple[float, float]] = []

    def note(_: object) -> None:
        moments.append((time.perf_counter(), time.process_time()))

    called = time.perf_counter()
    results = refresh(catalog, names, None, Listener(begin=note, end=note))
    failed = [f"{result.step}: {result.error}" for result in results if result.error]
    if failed:
        raise click.ClickException("; ".join(failed))
    steps = {result.step: round(result.seconds, 3) for result in results if result.state != "current"}
    (begun, cpu_begun), (ended, cpu_ended) = moments[0], moments[-1]
    return Took(steps, ended - begun, cpu_ended - cpu_begun, time.perf_counter() - called)


def command_seconds(root: Path, *arguments: str) -> float:
    """Wall time of a command, start-up included: the best of three."""
    found = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "queries.cli.main", "-C", str(root), *arguments],
            check=True,
            capture_output=True,
            cwd=Path(__file__).parents[2],
        )
        found.append(time.perf_counter() - begun)
    return round(min(found), 2)


def shares(catalog: Any) -> dict[str, Any]:
    """Of each explainer: labels that have to be asked for again, as a share of the shortlist."""
    from queries.refresh.engine import plan

    labels = next(result for result in plan(catalog, ("labels",)) if result.step == "labels")
    kept = {feature for (feature,) in catalog.rows("SELECT feature FROM labels")}
    found: dict[str, Any] = {}
    for name in ("top", "stratified"):
        ours = [key for key in labels.keys if key[2] == name and key[1] in kept]
        found[name] = round(len(ours) / SHORTLIST, 3)
    return found


def measure_text(root: Path, server: Server) -> dict[str, Any]:
    """The full build, nothing to do, and one percent more text."""
    from catalog import Catalog
    from ingest.add import add_text

    with Catalog.create(root / "catalog") as catalog:
        explainers(catalog, server)
        full, full_sampled = refreshed(catalog, *PLAIN), refreshed(catalog, *SAMPLED)
        refreshed(catalog, "labels")
        first_calls = server.calls
    idle = {
        "plan_nothing_to_do_s": command_seconds(root / "catalog", "plan", "labels", *SQL_STEPS),
        "refresh_nothing_to_do_s": command_seconds(root / "catalog", "refresh", "labels", *SQL_STEPS),
    }
    with Catalog.create(root / "catalog") as catalog:
        begun = time.perf_counter()
        added = add_text(catalog, "docs", [root / "more.jsonl"])
        adding = time.perf_counter() - begun
        more, more_sampled = refreshed(catalog, *PLAIN), refreshed(catalog, *SAMPLED)
        asked = shares(catalog)
        calls = server.calls
        refreshed(catalog, "labels")
    return {
        **idle,
        "tokens_added": added.harvest.tokens,
        "add_s": round(adding, 2),
        "full_s": round(full.wall, 2),
        "one_percent_s": round(more.wall, 2),
        "one_percent_share": round(more.wall / full.wall, 3),
        "one_percent_share_of_cpu": round(more.cpu / full.cpu, 3),
        "one_percent_share_of_calls": round(more.call / full.call, 3),
        "one_percent_share_of_sampled_steps": round(more_sampled.wall / full_sampled.wall, 3),
        "full_steps_s": full.steps | full_sampled.steps,
        "one_percent_steps_s": more.steps | more_sampled.steps,
        "labels_at_first": first_calls,
        "asked_again_share": asked,
        "calls_after_one_percent": server.calls - calls,
    }


_REFRESH = """
import sys
from catalog import Catalog
from queries.refresh.engine import refresh
refresh(Catalog(sys.argv[1]), ("labels",))
"""


def measure_prompt(root: Path, server: Server) -> dict[str, Any]:
    """An edited prompt: calls, calls of a second run, and calls of a run that is killed and one that goes on."""
    from catalog import Catalog
    from catalog.answers import Answers

    def counted(catalog: Any) -> int:
        before = server.calls
        refreshed(catalog, "labels")
        return server.calls - before

    path = root / "catalog"
    with Catalog(path) as catalog:
        features = catalog.value("SELECT count(DISTINCT (sae, feature)) FROM shortlist")
        explainers(catalog, server, instructions="Name the part of speech.")
        edited, again = counted(catalog), counted(catalog)
        explainers(catalog, server, instructions="Name the subject.", jobs=4)
    with Answers(path / "answers.sqlite") as answers:
        stored = len(answers)
    server.delay, before = 0.02, server.calls
    process = subprocess.Popen([sys.executable, "-c", _REFRESH, str(path)], cwd=Path(__file__).parents[2])
    while server.calls - before < features // 2 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    killed, server.delay = server.calls - before, 0.0
    with Answers(path / "answers.sqlite") as answers:
        kept = len(answers) - stored
    with Catalog(path) as catalog:
        rest = counted(catalog)
    return {
        "features": features,
        "calls_after_edit": edited,
        "calls_of_second_run": again,
        "calls_before_kill": killed,
        "answers_stored_at_kill": kept,
        "calls_after_kill": rest,
        "paid_twice": killed + rest - features - (killed - kept),
    }


@click.command()
@click.option("--tokens", default=1_000_000, show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the catalog before its first refresh.")
@click.option("--seconds", default=60, show_default=True, help="Of the writers and readers; 0 leaves them out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(tokens: int, keep: Path | None, seconds: int, as_json: bool) -> None:
    """Measure, and print lines or one JSON object."""
    with tempfile.TemporaryDirectory() as folder, endpoint() as server:
        raw = keep or Path(folder, "raw")
        if not (raw / "catalog").exists():
            raw.mkdir(parents=True, exist_ok=True)
            build(raw, tokens)
        root = Path(shutil.copytree(raw, Path(folder, "mine")))
        results: dict[str, Any] = measure_text(root, server)
        results["prompt"] = measure_prompt(root, server)
    for name, arguments in (("refresh_diff", []), ("concurrency", ["--seconds", str(seconds)])):
        if name == "refresh_diff" or seconds:
            command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *arguments, "--json"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[name] = json.loads(done.stdout)
    if as_json:
        click.echo(json.dumps(results))
        return
    for name, value in results.items():
        click.echo(f"{name:40} {value}")


if __name__ == "__main__":
    main()
