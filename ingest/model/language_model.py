"""Loads a causal LM of transformers: its tokenizer, its hookpoints, and a forward pass that stops early."""

import hashlib
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from catalog.errors import InputError, UnknownName, first_line
from catalog.study.text import Model
from ingest.embedded import MODEL_DIR
from ingest.model.gguf.convert import converted
from ingest.model.hookpoints import Hookpoint
from ingest.model.hub import Located, locate, needs_code, quiet
from ingest.model.other_names import own_name
from ingest.model.trial_passes import Layout, block_names, check_length, embedded_tokens, examine
from ingest.sae.layout.hookpoint_names import INPUT, meaning

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
    layout: Layout
    """What trial passes found."""
    origin: Mapping[str, Any] | None = None
    """Of a GGUF file what is known of it: name, SHA-256, quantisation, architecture, licence; None for other models."""
    batch_tokens: int | None = None
    """Tokens of a forward pass; None for what suits the device."""
    _called_once: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """Inputs that a whole pass came by once."""
    _lengths: set[int] = field(default_factory=set, init=False, repr=False, compare=False)
    """Lengths of sequences that it has read."""

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

        Names as `named_modules` of the whole model gives them (`model.layers.1`) are understood too, and those of
        TransformerLens (`blocks.1.hook_resid_post`, `hook_resid_pre`, `hook_attn_out`, `hook_mlp_out`). Where a module
        is itself called `input`, its name means its own output. Raises UnknownName listing the hookpoints that there
        are.
        """
        found = self._module(name) or self._module(self.named(name))
        if found is not None:
            return replace(found, name=name)
        raise UnknownName(
            f"model {self.spec.name!r} has no hookpoint {name!r}; it has {', '.join(self.hookpoints())}, and for what "
            f"goes into one of them its name with {INPUT} after it{meaning(name)}"
        )

    def named(self, name: str) -> str:
        """`layers.1` for `blocks.1.hook_resid_post`; a name of a module stays as it is, and one that means nothing."""
        return name if self._module(name) else own_name(self, name) or name

    def _module(self, name: str) -> Hookpoint | None:
        modules: dict[str, torch.nn.Module] = dict(self.network.base_model.named_modules())
        # The model as a whole is no hookpoint: its output is more than a tensor.
        del modules[""]
        for asked, enters in ((name, False), (name.removesuffix(INPUT), True)):
            for inside in (asked, asked.removeprefix(f"{self.network.base_model_prefix}.")):
                if inside in modules:
                    return Hookpoint(name, modules[inside], enters)
        return None

    def hookpoints(self) -> list[str]:
        """Blocks that a pass over text calls, and their direct children, by name inside the base model."""
        blocks = [name for name in block_names(self.network) if name in self.layout.blocks]
        modules = dict(self.network.base_model.named_modules())
        return [name for b in blocks for name in (b, *(f"{b}.{child}" for child, _ in modules[b].named_children()))]

    def check_length(self, ctx_len: int) -> None:
        """Raises InputError if a sequence of `ctx_len` tokens, BOS included, cannot be read; tried once a length."""
        if ctx_len not in self._lengths:
            check_length(self.network, self.layout, self.spec.name, ctx_len)
            self._lengths.add(ctx_len)

    @torch.inference_mode()
    def read(self, ids: torch.Tensor, hookpoints: list[str]) -> dict[str, torch.Tensor]:
        """What stands at the hookpoints for `ids` `[batch, seq]`: `[batch, seq, d]` each, in one pass.

        The pass ends as soon as the last hookpoint has been read: no later block and no head is computed.
        Sequences may be padded on the right, where a causal model does not see it, unless `layout.alone` is set.
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


def load_model(spec: Model, tell: Callable[[str], None] = lambda what: None) -> LanguageModel:
    """Load the model that a study names, and find out in trial passes how it reads.

    A GGUF file is converted the first time, and `tell` called with that; later its folder in the shared cache is
    loaded. No code that lies beside the weights is run unless `spec.trust_remote_code` is set; weights are read as
    tensors alone, from pickles too. A hub that does not answer is asked once.

    Raises InputError if the directory, the configuration, the weights or the tokenizer is missing or does not fit the
    others, and for a model that is not causal.
    """
    at, origin = located(spec, tell)
    # Its bar for reading the weights would run across the command line's own progress.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    device = ("cuda" if torch.cuda.is_available() else "cpu") if spec.device == "auto" else spec.device
    dtype = spec.dtype
    if dtype == "auto":
        # Half precision is emulated on most CPUs, many times slower than float32.
        dtype = "float32" if device == "cpu" else "auto"
    with quiet():
        tokenizer, network = _tokenizer(spec, at), _network(spec, at, dtype)
    try:
        network.to(torch.device(device)).eval().requires_grad_(False)  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {first_line(error)}") from error
    _check_ids(spec, network, tokenizer)
    # Before a pass: some models scale their weights in the first.
    digest = _digest(network, tokenizer)
    layout = examine(network, spec.name, set(tokenizer.all_special_ids))
    return LanguageModel(spec, network, tokenizer, _bos(spec, tokenizer), digest, layout, origin)


def located(spec: Model, tell: Callable[[str], None] = lambda what: None) -> tuple[Located, Mapping[str, Any] | None]:
    """Where the files of a model come from, and `LanguageModel.origin`. Raises InputError as `locate`, `converted`."""
    made = converted(spec.source, tell)
    folder = made.folder if made else MODEL_DIR if spec.source == EMBEDDED else spec.source
    return locate(str(folder), "model", spec.revision), made.origin if made else None


def _arguments(spec: Model, at: Located) -> dict[str, Any]:
    """Of every loader of transformers. Without its answer it would ask on a terminal whether to run code."""
    return {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code, **at.arguments}


_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)
"""What transformers raises for files that are missing, damaged, or of a kind that it lacks a package for."""


def _tokenizer(spec: Model, at: Located) -> PreTrainedTokenizerBase:
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(at.source, **_arguments(spec, at))
    # The Rust library raises plain Exceptions for a file that it cannot parse.
    except Exception as error:
        raise needs_code(error, "model", at.source) or InputError(
            f"no tokenizer can be loaded from {at.source!r}: {first_line(error)}"
        ) from error
    return found


def _network(spec: Model, at: Located, dtype: str) -> PreTrainedModel:
    unusable = f"no causal language model can be loaded from {at.source!r}"
    config = read_config(spec, at)
    try:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
            at.source, config=config, dtype=dtype, weights_only=True, output_loading_info=True, **_arguments(spec, at)
        )
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{unusable}: its weights are a pickle that holds more than tensors, and none is run"
        ) from error
    except _UNUSABLE as error:
        raise needs_code(error, "model", at.source) or InputError(f"{unusable}: {first_line(error)}") from error
    network, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        # transformers fills them with random numbers.
        raise InputError(f"the weights in {at.source!r} lack {len(missing)} tensors of the model, such as {missing[0]}")
    return network


def read_config(spec: Model, at: Located) -> PreTrainedConfig:
    """The model's configuration. Raises InputError for none, and for one that asks for code."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(at.source, **_arguments(spec, at))
    except _UNUSABLE as error:
        raise needs_code(error, "model", at.source) or InputError(
            f"no causal language model can be loaded from {at.source!r}: {first_line(error)}"
        ) from error
    _check_attention(config, at.source)
    return config


def _check_attention(config: PreTrainedConfig, source: str) -> None:
    """A configuration may name an attention kernel on the hub, which is code that is fetched and run."""
    for part in (config, config.get_text_config()):
        asked = getattr(part, "_attn_implementation", None)
        if isinstance(asked, str) and "/" in asked:
            raise InputError(
                f"the configuration in {source!r} names code on the hub as its attention ({asked}), and saeql "
                "runs none: remove attn_implementation from its config.json"
            )


def _check_ids(spec: Model, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError if text can become a token that the model has no embedding for."""
    embedded, bos = embedded_tokens(network), tokenizer.bos_token_id
    special = set(tokenizer.all_special_ids) - {bos}
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= embedded and i not in special}
    if spec.bos == "never":
        beyond.pop(str(tokenizer.bos_token), None)
    if beyond:
        token = min(beyond, key=lambda token: beyond[token])
        raise InputError(
            f"the tokenizer of model {spec.name!r} has {len(beyond)} tokens beyond the {embedded} that the model has "
            f"embeddings for, such as {beyond[token]} ({token!r}): it is not the model's own"
        )


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
