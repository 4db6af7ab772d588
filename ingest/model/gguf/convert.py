"""Makes of a GGUF file, once, a folder of safetensors, configuration and tokenizer, in the cache that catalogs share.

The folder's name is the digest of the file and the version of this converter. Its weights are those that transformers
reads from the file, unpacked to float32.
"""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from catalog.errors import InputError
from ingest.model.gguf.gguf_files import GgufFiles, find_gguf
from ingest.model.gguf.gguf_header import Header, Length, read_header, write_without_tokenizer
from ingest.model.gguf.gguf_tokenizer import read_tokenizer
from ingest.model.gguf.quick import quickly
from ingest.model.gguf.shared_cache import cache_folder, made_once
from ingest.model.hub import quiet

_VERSION = 1
"""Of the converter: what it makes of a file is another thing if this number is another."""
_ORIGIN = "gguf.json"
"""What of the file is kept beside the weights."""
_NEEDED = ("gguf", "accelerate")
_GROWS = 9
"""Bytes that a byte of the file takes for a while: unpacked, four-bit weights are seven times as large."""
INSTALL = "pip install --no-deps gguf==0.19.0 accelerate==1.15.0"


class Converted(NamedTuple):
    """A GGUF file as a folder."""

    folder: Path
    origin: dict[str, Any]
    """The file's name, SHA-256, quantisation, architecture and licence, and this converter's version."""


def converted(source: str, tell: Callable[[str], None] = lambda what: None) -> Converted | None:
    """The folder for a source that means a GGUF file, made now if it is not in the cache; None for other sources.

    `tell` is called with what is being done before a file is converted, which takes a while.
    Raises InputError in one line for a file that is not there, cut off, without a tokenizer, or of an architecture
    that transformers does not read, for packages that are not installed, and for a cache that cannot be written.
    """
    files = find_gguf(source)
    if files is None:
        return None
    sha256 = files.digest()
    folder = cache_folder() / "models" / f"gguf-{sha256[:32]}-{_VERSION}"
    if not folder.is_dir():
        if missing := [package for package in _NEEDED if find_spec(package) is None]:
            raise InputError(f"{files.name} is a GGUF file, and {' and '.join(missing)} is not installed: {INSTALL}")
        tell(f"converting {files.name}, once for all catalogs")
        size = sum(path.stat().st_size for path in files.parts)
        made_once(folder, lambda partial: _convert(files, sha256, partial), _GROWS * size)
    try:
        origin = json.loads((folder / _ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is damaged ({error}): remove it, and it is made again") from error
    return Converted(folder, {"file": files.name, **origin})


def _convert(files: GgufFiles, sha256: str, out: Path) -> None:
    gguf = import_module("gguf")
    work = out / "work"
    work.mkdir()
    # Alone in its folder: what lies beside the file elsewhere, a configuration say, is not part of it.
    whole = work / "whole.gguf"
    if len(files.parts) == 1:
        whole.symlink_to(files.parts[0].absolute())
    else:
        with whole.open("wb") as joined:
            joined.writelines(files.blocks())
    try:
        header = read_header(whole, {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()})
        _check(header, whole)
        with quiet():
            read_tokenizer(whole, header).save_pretrained(out)
            network = _read_network(whole, header)
    except InputError as error:
        raise InputError(str(error).replace(str(whole), str(files.parts[0]))) from error
    _save(network, out)
    origin = {
        "sha256": sha256,
        "quantisation": _quantisation(header, gguf),
        "architecture": header.architecture,
        "licence": header.metadata.get("general.license"),
        "converter": _VERSION,
    }
    (out / _ORIGIN).write_text(json.dumps(origin), encoding="utf-8")
    shutil.rmtree(work)


def _check(header: Header, whole: Path) -> None:
    """Raises InputError for a file that is no whole model, or that says what transformers does not read of it."""
    kind, parts = header.metadata.get("general.type", "model"), header.metadata.get("split.count", 1)
    if kind != "model" or parts > 1:
        what = (
            f"one of {parts} parts of a model: join them (llama-gguf-split --merge)" if kind == "model" else f"a {kind}"
        )
        raise InputError(f"{whole} is {what}, and no whole model")
    scaling = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    factors = [name for name in header.shapes if name.startswith("rope_")]
    if factors or (scaling != "none" and header.architecture != "gpt-oss"):
        how = ", ".join(factors) or scaling
        raise InputError(
            f"{whole} scales its rotary positions ({how}), which transformers does not read from a GGUF file: name the "
            "folder or the hub id of the model that it was made from"
        )


def _read_network(whole: Path, header: Header) -> PreTrainedModel:
    """The model of the file, in float32 on the CPU."""
    path = whole
    if header.architecture not in _read_at_once():
        path = whole.with_name("bare.gguf")
        write_without_tokenizer(whole, header, path)
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        with quickly():
            config = AutoConfig.from_pretrained(whole.parent, **where)
            _complete(config, header)
            loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
                whole.parent, config=config, dtype=torch.float32, output_loading_info=True, **where
            )
    # Whatever the loaders of many architectures raise, of any class, is about the file.
    except Exception as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{whole} is of architecture {header.architecture!r}, and transformers cannot read it: {said}"
        ) from error
    network, loading = loaded
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(f"{whole} lacks {len(missing)} tensors of its model, such as {missing[0]}")
    if header.architecture not in _read_at_once() and (more := _held(header, network) - _taken(network)) > 0:
        # transformers leaves out, without a word, what its class has no place for: biases, say.
        raise InputError(
            f"{whole} holds {more} numbers for which {type(network).__name__} of transformers has no place"
        )
    return network


def _held(header: Header, network: PreTrainedModel) -> int:
    """Numbers in the file, less a head that is the embedding once more."""
    tied = network.config.get_text_config().tie_word_embeddings
    return sum(prod(shape) for name, shape in header.shapes.items() if not (tied and name == "output.weight"))


def _taken(network: PreTrainedModel) -> int:
    """Numbers of the model's weights, those that are tied once."""
    return sum({tensor.data_ptr(): tensor.numel() for tensor in network.state_dict().values()}.values())


def _read_at_once() -> frozenset[str]:
    """Architectures that transformers reads without the package gguf, quickly, and with the tokenizer's length."""
    try:
        return frozenset(import_module("transformers.integrations.gguf").GGUF_CONFIG_ARCHS)
    except (ImportError, AttributeError):
        return frozenset()


def _complete(config: PreTrainedConfig, header: Header) -> None:
    """What the file says by its tensors, and transformers does not take from there."""
    embeddings = header.shapes.get("token_embd.weight")
    if embeddings and header.architecture not in _read_at_once():
        config.vocab_size = embeddings[0]


def _save(network: PreTrainedModel, out: Path) -> None:
    config = network.config
    for said in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        if hasattr(config, said):
            delattr(config, said)
    config.save_pretrained(out)
    tensors: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in network.state_dict().items():
        # Tied weights once.
        tensors.setdefault(tensor.data_ptr(), (name, tensor.contiguous()))
    try:
        save_file(dict(tensors.values()), out / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(
            28 if "os error 28" in str(error) else 27 if "os error 27" in str(error) else 5, str(error)
        ) from error


def _quantisation(header: Header, gguf: Any) -> str | None:
    kind = header.metadata.get("general.file_type")
    if isinstance(kind, Length) or kind is None:
        return None
    try:
        return str(gguf.LlamaFileType(kind).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return f"type {kind}"
