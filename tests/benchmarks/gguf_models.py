"""Measures what a GGUF file costs: conversion, memory, loading, and how far logits lie from transformers' own reading.

    python tests/benchmarks/gguf_models.py [smollm2 | gemma3-270m | FILE.gguf]

The conversion goes to a cache of its own. transformers' own reading takes minutes for a large vocabulary.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

TEXT = "The capital of France is"


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("model", nargs="?", default="smollm2")
    arguments.add_argument("--convert", action="store_true", help="only convert, in this process, and say what it took")
    given = arguments.parse_args()
    if given.convert:
        convert(given.model)
        return
    with tempfile.TemporaryDirectory() as cache:
        os.environ.update(SAEQL_CACHE=cache, HF_HUB_OFFLINE="1")
        subprocess.run([sys.executable, __file__, given.model, "--convert"], check=True)
        compare(given.model)


def convert(model: str) -> None:
    from ingest.model.gguf.convert import converted

    start, used = time.monotonic(), time.process_time()
    made = converted(model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds, used = time.monotonic() - start, time.process_time() - used
    say(f"converted in {seconds:.1f} s ({used:.1f} s of CPU), peak {peak:.2f} GiB")
    say(str(made.origin if made else f"{model} is no GGUF file"))


def compare(name: str) -> None:
    from transformers import AutoModelForCausalLM

    from catalog.study.text import Model
    from ingest.model.gguf.gguf_files import find_gguf
    from ingest.model.language_model import load_model

    spec = Model.model_validate({"name": "model", "source": name})
    # What is imported for the first time is not the file's cost.
    load_model(Model.model_validate({"name": "embedded"}))
    start, used = time.monotonic(), time.process_time()
    model = load_model(spec)
    say(f"loaded in {time.monotonic() - start:.1f} s ({time.process_time() - used:.1f} s of CPU)")
    ids = model.tokenizer(TEXT, return_tensors="pt").input_ids
    said = model.network.generate(ids, max_new_tokens=8, do_sample=False)
    say(repr(model.tokenizer.decode(said[0])))
    if model.tokenizer.chat_template:
        asked = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = model.tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        prompted = model.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        said = model.network.generate(prompted, max_new_tokens=16, do_sample=False)
        say(repr(model.tokenizer.decode(said[0, prompted.shape[1] :])))
    files = find_gguf(name)
    if files and len(files.parts) == 1:
        (path,) = files.parts
        start = time.monotonic()
        plain = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        with torch.inference_mode():
            apart = (plain.eval()(ids).logits - model.network(ids).logits).abs().max()
        say(f"largest difference of logits {apart:.2g}; transformers read the file in {time.monotonic() - start:.1f} s")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
