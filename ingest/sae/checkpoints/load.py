"""Loads a checkpoint folder of any known format, which it recognises by its files."""

from pathlib import Path

from catalog.errors import InputError
from ingest.sae.checkpoints import dictionary_learning, gemma_scope, sparsify
from ingest.sae.layout.cfg import check_scale
from ingest.sae.model import SAE, WEIGHTS_FILE

_FORMATS = {
    WEIGHTS_FILE: "saeql or SAELens",
    sparsify.WEIGHTS_FILE: "sparsify",
    dictionary_learning.WEIGHTS_FILE: "dictionary_learning",
    gemma_scope.WEIGHTS_FILE: "Gemma Scope",
}
"""The file by which a folder is recognised."""


def load_checkpoint_folder(path: Path, scale: float | None = None) -> SAE:
    """The SAE in the folder `path`: of saeql, SAELens, sparsify (also a run with one hookpoint), dictionary_learning or
    Gemma Scope, as float32 on the CPU.

    `scale` is what rows are to be multiplied by where the checkpoint asks for a factor that it does not hold; it is
    folded into the weights, which are then for rows as they are.

    Raises InputError if no format fits, or several do, or if the SAE cannot be read as it was meant.
    """
    if scale is not None:
        check_scale(scale, path)
    if not path.is_dir():
        raise InputError(f"there is no SAE in {path}: it is not a folder")
    found = [name for name in _FORMATS if (path / name).is_file()]
    if len(found) > 1:
        said = ", ".join(f"{name} ({_FORMATS[name]})" for name in found)
        raise InputError(f"{path} holds checkpoints of several formats: {said}. Keep each in a folder of its own")
    if not found:
        return _nested(path, scale)
    match found[0]:
        case gemma_scope.WEIGHTS_FILE:
            return gemma_scope.load_gemma_scope(path, scale)
        case sparsify.WEIGHTS_FILE:
            _no_scale(path, "sparsify", scale)
            return sparsify.load_sparsify(path)
        case dictionary_learning.WEIGHTS_FILE:
            _no_scale(path, "dictionary_learning", scale)
            return dictionary_learning.load_dictionary_learning(path)
    return SAE.load(path, scale=scale)


def _nested(path: Path, scale: float | None) -> SAE:
    """A sparsify run, in which each hookpoint has a folder."""
    inside = sorted(found.parent for found in path.glob(f"*/{sparsify.WEIGHTS_FILE}"))
    if len(inside) == 1:
        return load_checkpoint_folder(inside[0], scale)
    if inside:
        raise InputError(f"{path} is a sparsify run with several SAEs, choose one: {[f.name for f in inside]}")
    known = ", ".join(f"{name} ({form})" for name, form in _FORMATS.items())
    there = sorted(entry.name for entry in path.iterdir())
    raise InputError(f"there is no SAE in {path}: it has none of {known}; it has {there}")


def _no_scale(path: Path, form: str, scale: float | None) -> None:
    if scale is not None:
        raise InputError(f"scale {scale} is given for {path}, but {form}'s SAEs read rows as they are: leave it out")
