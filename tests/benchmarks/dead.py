"""A BatchTopK SAE of 4,096 latents and L0 64 on the embedded model: how much it explains, and which latents are dead.

    python tests/benchmarks/dead.py [--tokens 2000000] [--steps 900] [--dead-after 20000] [--json]

Docstrings of the installed packages, the output of layer 2, trained on the split train, measured on val: L0, fraction
of variance explained, and the latents that fire on none of the held-out tokens.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(Path(__file__).parents[2]))

import click

STUDY = """
name = "dead"

[[corpus]]
name = "docs"
max_tokens = {tokens}

[[sae]]
name = "sae"
hookpoint = "layers.2"
architecture = "batchtopk"
width = 4096
k = 64
steps = {steps}
decay = {decay}
dead_after = {dead_after}
harvest = []
evaluate = []
"""
_MEASURED = "SELECT l0, fve, dead, width, held_out FROM saes"


@click.command()
@click.option("--tokens", default=2_000_000, show_default=True, help="Of text, all splits together.")
@click.option("--steps", default=900, show_default=True, help="Of 2,048 tokens.")
@click.option("--dead-after", default=20_000, show_default=True, help="Tokens after which AuxK takes a latent.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(tokens: int, steps: int, dead_after: int, as_json: bool) -> None:
    """Train, measure, and print lines or one JSON object."""
    from catalog import Catalog
    from catalog.study.file import Study
    from ingest.pipeline import ingest_study

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        text = STUDY.format(tokens=tokens, steps=steps, decay=steps * 3 // 10, dead_after=dead_after)
        with Catalog.create(Path(folder, "catalog")) as catalog:
            ingest_study(catalog, Study.parse(text, Path(folder)))
            l0, fve, dead, width, held_out = catalog.rows(_MEASURED)[0]
            speed = catalog.value("SELECT median(tokens_per_s) FROM training")
    results = {"latents": width, "held_out_tokens": held_out, "l0": round(l0, 2), "fve": round(fve, 4), "dead": dead}
    results |= {"tokens_per_s": round(speed), "seconds": round(time.perf_counter() - begun, 1)}
    click.echo(json.dumps(results) if as_json else "\n".join(f"{name:16} {value}" for name, value in results.items()))


if __name__ == "__main__":
    main()
