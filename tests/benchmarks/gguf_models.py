"""Measures what a GGUF file costs: conversion, memory, loading, and how far logits lie from transformers' own reading.

    python tests/benchmarks/gguf_models.py [smollm2 | gemma3-270m | FILE.gguf] [--json]

The conversion goes to a cache of its own. transformers' own reading takes minutes for a large vocabulary.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

TEXT = "The capital of France is"


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("model", nargs="?", default="smollm2")
    arguments.add_argument("--json", action="store_true", help="print one object")
    arguments.add_argument("--convert", action="store_true", help="only convert, in this process, and say what it took")
    given = arguments.parse_args()
    if given.convert:
        sys.stdout.write(json.dumps(convert(given.model)))
        return
    with tempfile.TemporaryDirectory() as cache:
        os.environ.update(SAEQL_CACHE=cache, HF_HUB_OFFLINE="1")
        # In a process of its own: the peak of memory is the conversion's alone.
        command = [sys.executable, __file__, given.model, "--convert"]
        made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = {"model": given.model, **json.loads(made.splitlines()[-1]), **compare(given.model)}
    lines = [json.dumps(found)] if given.json else [f"{name:24} {value}" for name, value in found.items()]
    sys.stdout.write("\n".join(lines) + "\n")


def convert(model: str) -> dict[str, Any]:
    """What the conversion takes, and what is known of the file."""
    from ingest.model.gguf.convert import converted

    start, used = time.monotonic(), time.process_time()
    made = converted(model)
    return {
        "origin": made.origin if made else None,
        "convert_seconds": round(time.monotonic() - start, 2),
        "convert_cpu_seconds": round(time.process_time() - used, 2),
        "convert_peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def compare(name: str) -> dict[str, Any]:
    """What loading takes, what the model says, and how far its logits lie from transformers' own reading."""
    from transformers import AutoModelForCausalLM

    from catalog.study.text import Model
    from ingest.model.gguf.gguf_files import find_gguf
    from ingest.model.language_model import load_model

    # What is imported for the first time is not the file's cost.
    load_model(Model.model_validate({"name": "embedded"}))
    start, used = time.monotonic(), time.process_time()
    model = load_model(Model.model_validate({"name": "model", "source": name}))
    found: dict[str, Any] = {
        "load_seconds": round(time.monotonic() - start, 2),
        "load_cpu_seconds": round(time.process_time() - used, 2),
    }
    ids = model.tokenizer(TEXT, return_tensors="pt").input_ids
    said = model.network.generate(ids, max_new_tokens=8, do_sample=False)
    found["completion"] = model.tokenizer.decode(said[0])
    if model.tokenizer.chat_template:
        asked = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = model.tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        prompted = model.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        said = model.network.generate(prompted, max_new_tokens=16, do_sample=False)
        found["answer"] = model.tokenizer.decode(said[0, prompted.shape[1] :])
    files = find_gguf(name)
    if files and len(files.parts) == 1:
        (path,) = files.parts
        start = time.monotonic()
        plain = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        with torch.inference_mode():
            apart = (plain.eval()(ids).logits - model.network(ids).logits).abs().max()
        found |= {
            "largest_logit_difference": float(apart),
            "transformers_seconds": round(time.monotonic() - start, 2),
        }
    return found


if __name__ == "__main__":
    main()
