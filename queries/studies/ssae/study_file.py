"""Writes the study file of `ssae` from its options, and checks whether a file that is there was written with them.

What a person does not say is the default in a new file, and what stands there in a file that is there.
"""

import json
import math
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from catalog.errors import InputError
from catalog.study.file import Study

NAME = "ssae"
POOL_PACKAGES = ("numpy", "scipy", "sympy", "networkx", "torch", "sklearn", "stdlib")
DOMAIN_PACKAGE = "sympy.physics"
OOD_FILE = "ood.jsonl"
L0_VALUES = (20, 65, 100, 145, 230)
FAMILIES = {
    "full": ("everything", 0.0),
    "random": ("random", 0.0),
    "seed": ("seed", 0.0),
    "bm25": ("bm25", 0.0),
    "dense": ("dense", 0.0),
    "dense-tracin": ("dense-tracin", 0.0),
    "dense-term": ("dense", 0.1),
}
"""Family -> (selection, tilt)."""
_FAMILY = """
[[sae]]
name = "$name"
parent = "general"
hookpoint = "layers.2"
selection = "$selection"
tilt = $tilt
steps = $steps
lr = 1e-3
decay = $decay
evaluate = ["domain", "ood"]
template = true
"""


@dataclass(frozen=True)
class Options:
    """What a person asked of the study; None where nothing was said.

    `pool`, `seed` and `ood` are JSON Lines with the text under `text`: the pool, the subdomain (train documents are the
    seed set, val and test measure), and the subdomain in another form.
    """

    pool: Path | None = None
    seed: Path | None = None
    ood: Path | None = None
    scale: float | None = None
    """Size; 1, the default, takes 23 minutes on two cores."""
    width: int | None = None
    """Latents of every SAE; the default is 1024."""

    def files(self) -> dict[str, tuple[str, Path]]:
        """Corpus -> (option, path) of the text that was named."""
        named = {"pool": ("--pool", self.pool), "domain": ("--seed", self.seed), "ood": ("--ood", self.ood)}
        return {corpus: (option, path) for corpus, (option, path) in named.items() if path is not None}

    def numbers(self) -> dict[str, int]:
        """The template's numbers."""
        scale = 1.0 if self.scale is None else self.scale
        return {
            "pool_tokens": round(2_000_000 * scale),
            "domain_tokens": round(160_000 * scale),
            "budget": round(200_000 * scale),
            "width": 1024 if self.width is None else self.width,
            "general_steps": max(round(2500 * scale), 40),
            "resample_every": max(round(500 * scale), 10),
            "steps": max(round(300 * scale), 20),
            "evaluation_tokens": round(16_000 * max(scale, 0.1)),
            "seed_tokens": max(round(10_000 * min(scale, 1.0)), 500),
        }


def study_text(options: Options) -> str:
    """The study file. Raises InputError if some other text is named but not all three files."""
    files = options.files()
    if files and len(files) < 3:
        raise InputError("other text needs all three of --pool, --seed and --ood; leave out all for docstrings")
    numbers = options.numbers()
    template = Template((resources.files("queries.studies.ssae") / "ssae.toml").read_text())
    families = "".join(
        Template(_FAMILY).substitute(
            name=name, selection=selection, tilt=tilt, steps=numbers["steps"], decay=numbers["steps"] // 3
        )
        for name, (selection, tilt) in FAMILIES.items()
    )
    sources = {name: _lines(str(path.absolute())) for name, (_, path) in files.items()} or {
        "pool": _docstrings(POOL_PACKAGES),
        "domain": _docstrings((DOMAIN_PACKAGE,)),
        "ood": _lines(OOD_FILE),
    }
    seed_tokens = numbers.pop("seed_tokens")
    return template.substitute(
        numbers,
        **sources,
        seed=f'seed = "domain"\nseed_splits = ["train"]\nseed_tokens = {seed_tokens}\nevaluations = ["domain", "ood"]',
        families=families,
        names=", ".join(map(_quoted, FAMILIES)),
        l0_values=", ".join(map(str, L0_VALUES)),
    )


def check_width(width: int) -> None:
    """Raise InputError if an SAE of this width cannot have as many active latents as the study asks for."""
    ranges = [sae.l0_range for sae in Study.parse(study_text(Options()), Path()).trained() if sae.l0_range]
    most = max(high for _, high in ranges)
    if width < most:
        raise InputError(
            f"--width {width} is too small: the study leads SAEs to {most:g} active latents per token; "
            f"give {math.ceil(most)} or more"
        )


def check_same(study: Study, options: Options, path: Path) -> None:
    """Raise InputError unless the study in the file `path` is an `ssae`, made with what `options` say."""
    if not _is_ssae(study):
        raise InputError(f"{path} holds another study, {study.name!r}: name another folder")
    corpora = {corpus.name: corpus for corpus in study.corpora}
    differ = [
        f"{option} {given}, there {', '.join(corpora[name].files) or corpora[name].kind}"
        for name, (option, given) in options.files().items()
        if list(map(os.path.realpath, corpora[name].files)) != [os.path.realpath(given)]
    ]
    there = _numbers(study)
    asked = options.numbers()
    if options.width is not None and asked["width"] != there["width"]:
        differ.append(f"--width {options.width}, there {there['width']}")
    scaled = [name for name in asked if name != "width" and asked[name] != there[name]]
    if options.scale is not None and scaled:
        first = scaled[0]
        differ.append(f"--scale {options.scale} makes {first} {asked[first]}, there {there[first]}")
    if differ:
        raise InputError(
            f"{path} holds a study made with other settings ({'; '.join(differ)}): "
            "name another folder, or remove study.toml"
        )


def _is_ssae(study: Study) -> bool:
    """Whether it has the parts that the tables and figures are about; a person may have edited the rest."""
    parts = (
        (study.corpora, {"pool", "domain", "ood"}),
        (study.saes, {"general", "full"}),
        (study.selections, {"random", "seed"}),
        (study.sweeps, {NAME}),
    )
    return study.name == NAME and all(names <= {part.name for part in found} for found, names in parts)


def _numbers(study: Study) -> dict[str, int | None]:
    """What stands in an `ssae` for the template's numbers."""
    corpora = {corpus.name: corpus for corpus in study.corpora}
    saes = {sae.name: sae for sae in study.saes}
    selections = {selection.name: selection for selection in study.selections}
    return {
        "pool_tokens": corpora["pool"].max_tokens,
        "domain_tokens": corpora["domain"].max_tokens,
        "budget": selections["random"].tokens,
        "width": saes["general"].width,
        "general_steps": saes["general"].steps,
        "resample_every": saes["general"].resample_every,
        "steps": saes["full"].steps,
        "evaluation_tokens": study.evaluation.tokens,
        "seed_tokens": selections["seed"].seed_tokens,
    }


def _docstrings(packages: tuple[str, ...]) -> str:
    return f'kind = "docstrings"\npackages = [{", ".join(map(_quoted, packages))}]'


def _lines(path: str) -> str:
    return f'kind = "jsonl"\nfiles = [{_quoted(path)}]'


def _quoted(text: str) -> str:
    """`text` as a TOML string: as in JSON, but that TOML has no pairs of surrogates, and takes no bare DEL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{text!r} is no UTF-8, as a study file must be: rename it") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
