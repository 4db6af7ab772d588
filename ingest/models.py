"""Any transformers causal LM by id or directory: its tokenizer, its hookpoints, a forward pass that stops early."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from catalog.errors import InputError, UnknownName
from catalog.sections import Model
from ingest.embedded import MODEL_DIR
from ingest.hookpoints import INPUT, Hookpoint
from ingest.sae.formats.hookpoints import meaning

EMBEDDED = "embedded"


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model, ready to be read from."""

    spec: Model
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    bos: int | None
    """Token put before each sequence, None for none."""
    digest: str
    """BLAKE2b-128 of weights and tokenizer: two models with one name differ here."""
    _called_once: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """Inputs that a whole pass came by once."""

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the forward pass."""
        return self.network.dtype

    def hookpoint(self, name: str) -> torch.nn.Module:
        """The module that a hookpoint names; `place` says which side of it. Raises UnknownName as `place` does."""
        return self.place(name).module

    def place(self, name: str) -> Hookpoint:
        """A module's output by its name inside the base model (`layers.1`), its input with `.input` after that.

        Names as `named_modules` of the whole model gives them (`model.layers.1`) are understood too. Where a module
        is itself called `input`, its name means its own output. Raises UnknownName listing the hookpoints that there
        are.
        """
        modules: dict[str, torch.nn.Module] = dict(self.network.base_model.named_modules())
        # The model as a whole is no hookpoint: its output is more than a tensor.
        del modules[""]
        for asked, enters in ((name, False), (name.removesuffix(INPUT), True)):
            for inside in (asked, asked.removeprefix(f"{self.network.base_model_prefix}.")):
                if inside in modules:
                    return Hookpoint(name, modules[inside], enters)
        raise UnknownName(
            f"model {self.spec.name!r} has no hookpoint {name!r}; it has {', '.join(self.hookpoints())}, and for what "
            f"goes into one of them its name with {INPUT} after it{meaning(name)}"
        )

    def hookpoints(self) -> list[str]:
        """Blocks and their direct children, by name inside the base model."""
        blocks = [name for name, module in self.network.base_model.named_modules() if _is_block(name, module)]
        modules = dict(self.network.base_model.named_modules())
        return [name for b in blocks for name in (b, *(f"{b}.{child}" for child, _ in modules[b].named_children()))]

    @torch.inference_mode()
    def read(self, ids: torch.Tensor, hookpoints: list[str]) -> dict[str, torch.Tensor]:
        """What stands at the hookpoints for `ids` `[batch, seq]`: `[batch, seq, d]` each, in one pass.

        The pass ends as soon as the last hookpoint has been read: no later block and no head is computed.
        Sequences may be padded on the right: attention is causal, so padding reaches no earlier token.
        Raises UnknownName for a hookpoint that there is not, InputError for one that the pass never calls, calls more
        than once, or that gives no vector for each token.
        """
        outputs: dict[str, torch.Tensor] = {}
        places = [self.place(name) for name in dict.fromkeys(hookpoints)]
        # A second call would come after the pass has ended: the first pass with an input runs through.
        whole = {place.name for place in places if place.enters} - self._called_once

        def keep(name: str) -> Callable[[torch.Tensor, Any], None]:
            def kept(vectors: torch.Tensor, _returned: object) -> None:
                outputs[name] = vectors
                if len(outputs) == len(places) and not whole:
                    raise _AllRead

            return kept

        handles = [place.watch(ids.shape, keep(place.name)) for place in places]
        try:
            self.network.base_model(ids.to(self.device), use_cache=False)
        except _AllRead:
            return outputs
        finally:
            for handle in handles:
                handle.remove()
        missing = [name for name in hookpoints if name not in outputs]
        if missing:
            raise InputError(f"the forward pass of {self.spec.name!r} never calls {missing}: choose other hookpoints")
        self._called_once.update(whole)
        return outputs


class _AllRead(Exception):
    """Ends a forward pass once every hookpoint has been read."""


def _is_block(name: str, module: torch.nn.Module) -> bool:
    *parents, last = name.split(".")
    return last.isdigit() and not any(p.isdigit() for p in parents) and len(list(module.children())) > 0


def load_model(spec: Model) -> LanguageModel:
    """Load the model that a study names.

    Raises InputError if the directory, the configuration, the weights or the tokenizer is missing.
    """
    source = str(MODEL_DIR) if spec.source == EMBEDDED else str(spec.source)
    if ("/" in source or source.startswith(".")) and source.count("/") != 1 and not Path(source).is_dir():
        raise InputError(f"model directory {source} does not exist")
    # Its bar for reading the weights would run across the command line's own progress.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    device = ("cuda" if torch.cuda.is_available() else "cpu") if spec.device == "auto" else spec.device
    dtype = spec.dtype
    if dtype == "auto":
        # Half precision is emulated on most CPUs, many times slower than float32.
        dtype = "float32" if device == "cpu" else "auto"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=spec.revision)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"no tokenizer can be loaded from {source!r}: {_first_line(error)}") from error
    try:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
            source, revision=spec.revision, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"no causal language model can be loaded from {source!r}: {_first_line(error)}") from error
    network, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        # transformers fills them with random numbers.
        raise InputError(f"the weights in {source!r} lack {len(missing)} tensors of the model, such as {missing[0]}")
    try:
        network.to(torch.device(device)).eval().requires_grad_(False)  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {_first_line(error)}") from error
    return LanguageModel(spec, network, tokenizer, _bos(spec, tokenizer), _digest(network, tokenizer))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _bos(spec: Model, tokenizer: PreTrainedTokenizerBase) -> int | None:
    bos = tokenizer.bos_token_id
    if spec.bos == "never":
        return None
    if spec.bos == "always":
        if bos is None:
            raise InputError(f"model {spec.name!r}: bos = 'always', and its tokenizer has no BOS token")
        return int(bos)
    adds = bos is not None and tokenizer("a").input_ids[:1] == [bos]
    return int(bos) if adds else None


def _digest(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Of the values in use, so that it is the same for a hub id and for a copy of its directory."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    digest.update(tokenizer.backend_tokenizer.to_str().encode() if tokenizer.is_fast else b"")
    return digest.hexdigest()


def unembedding(model: LanguageModel) -> torch.Tensor:
    """What a residual direction is multiplied with to give logits: `[vocabulary, d_model]`, float32, on the CPU.

    The final norm's weight is folded in, and for a LayerNorm its subtraction of the mean.
    """
    head: torch.nn.Module | None = model.network.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        raise InputError(f"model {model.spec.name!r} has no output embedding, so it has no logit lens")
    weight = head.get_parameter("weight").detach().float().cpu()
    norm = _final_norm(model)
    if norm is None:
        return weight
    if isinstance(norm, torch.nn.LayerNorm):
        scaled = weight * norm.weight.detach().float().cpu()
        return scaled - scaled.mean(1, keepdim=True)
    # Gemma's norm multiplies by 1 + weight: what a norm makes of ones, whose RMS is 1, is its gain.
    gain: torch.Tensor = norm(torch.ones(weight.shape[1], dtype=model.dtype, device=model.device))
    return weight * gain.detach().float().cpu()


def _final_norm(model: LanguageModel) -> torch.nn.Module | None:
    """The last norm outside of the blocks, which every stock decoder ends with."""
    for name, module in reversed(list(model.network.base_model.named_modules())):
        if "norm" in type(module).__name__.lower() and not any(part.isdigit() for part in name.split(".")):
            return module  # type: ignore[no-any-return]
    return None
