"""Tries out a model that was just loaded: its blocks and widths, whether it is causal, what its head reads.

Attributes of a configuration name these things differently in every architecture, or not at all; a pass of a few tokens
does not. Rows that a later token changes are no rows of a causal model, and are refused. Rows that the padding of a
batch changes are read a sequence at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

from catalog.errors import InputError, first_line
from ingest.model.hookpoints import answering, vectors_of

_TOKENS, _PADDED = 8, 12
"""Tokens of a trial sequence, and of the padded batch in which it is read again."""
_SAME_SHAPE = {torch.float32: 1e-5}
"""How far rows may differ, as a part of their norm, where only later tokens are others: rounding repeats, but for
experts, which multiply as many rows as they are given."""
_OTHER_SHAPE = {torch.float32: 1e-3}
"""Where the batch has another shape."""
_HALF = (2e-2, 0.1)
"""Both in half precision."""


@dataclass(frozen=True)
class Layout:
    """What trial passes found."""

    blocks: dict[str, Module]
    """By name inside the base model, in the order of the pass, those that it calls."""
    d_model: int
    """Width of the last block's output: the residual stream."""
    vocabulary: int
    """Logits of a token."""
    body: Module | None
    """What the model calls for the states that its head reads."""
    headless: str | None
    """Why the head cannot be called on some states alone, so that no token's loss can be measured; None if it can."""
    alone: bool
    """Whether rows depend on what else is in their batch, padding say: each sequence is read alone."""
    trial: Tensor
    """`[1, seq]`: ids that a trial may read."""


@dataclass(frozen=True)
class _Pass:
    """One pass of the whole model."""

    blocks: dict[str, Tensor]
    """By name, in the order of the pass: `[batch, seq, d]`."""
    logits: Tensor
    """`[batch, seq, vocabulary]`"""
    direct: list[tuple[Module, Any]]
    """Modules that the model itself calls, and what they returned."""

    def rows(self, sequence: int, tokens: int) -> list[Tensor]:
        """The first tokens' rows of one sequence, `[tokens, d]`, after each block and of the logits."""
        return [found[sequence, :tokens].float() for found in (*self.blocks.values(), self.logits)]


def examine(network: PreTrainedModel, name: str, reserved: set[int]) -> Layout:
    """Find out how `network` reads text. No id in `reserved` is fed to it.

    Raises InputError naming the model `name` for one that reads no ids alone, that is not causal, or that gives other
    rows each time.
    """
    ids = _some_ids(network, reserved)
    n = min(_TOKENS, ids.shape[1] - 2)
    one, other = ids[:1, :n], ids[1:, :n]
    first = _run(network, network, one, name)
    if not first.blocks:
        raise InputError(
            f"model {name!r} ({type(network).__name__}) has no blocks that give a vector for each token: saeql reads "
            "stacks of numbered blocks, such as layers.0"
        )
    half = n // 2
    later = torch.cat([one[:, :half], other[:, half:]], 1)
    _check_causal(network, name, one, later, first, half)
    padded = torch.zeros(3, ids.shape[1], dtype=torch.int64)
    padded[0, :n], padded[1], padded[2, :2] = one[0], ids[1], other[0, :2]
    batched = _run(network, network, padded, name)
    alone = _apart(first.rows(0, n), batched.rows(0, n), _OTHER_SHAPE.get(network.dtype, _HALF[1]))
    body, headless = _head(network, first)
    return Layout(
        {block: dict(network.base_model.named_modules())[block] for block in first.blocks},
        next(reversed(first.blocks.values())).shape[-1],
        first.logits.shape[-1],
        body,
        headless,
        alone,
        one,
    )


def block_names(network: PreTrainedModel) -> list[str]:
    """Names inside the base model of its numbered modules: of those that have parts, the outermost."""
    return [name for name, module in network.base_model.named_modules() if _is_block(name, module)]


def check_length(network: PreTrainedModel, layout: Layout, name: str, tokens: int) -> None:
    """A trial pass of `tokens` tokens, BOS included.

    Raises InputError if the model cannot read as many at once, or if a short sequence has other rows beside one of that
    length than alone (rotary frequencies that follow the length of the batch).
    """
    ids = layout.trial
    long = ids.repeat(1, -(-tokens // ids.shape[1]))[:, :tokens]
    advice = f"set ctx_len below {tokens}"
    states = _run(network, network.base_model, torch.cat([long, long]), name, advice)
    n = min(ids.shape[1], tokens)
    short = _run(network, network.base_model, long[:, :n], name, advice)
    if not layout.alone and _apart(short.rows(0, n), states.rows(0, n), _OTHER_SHAPE.get(network.dtype, _HALF[1])):
        raise InputError(
            f"model {name!r} gives a short sequence other rows beside one of {tokens} tokens than alone: {advice}"
        )


def _some_ids(network: PreTrainedModel, reserved: set[int]) -> Tensor:
    """`[2, seq]`: two sequences, other tokens at each place."""
    text = network.config.get_text_config()
    said = {value for config in (network.config, text) for key, value in vars(config).items() if "token_id" in key}
    known = [i for i in range(min(embedded_tokens(network), 4096)) if i not in reserved | said]
    width = min(_PADDED, longest(network) or _PADDED)
    if len(known) < 2:
        raise InputError(f"the model has embeddings for {embedded_tokens(network)} tokens: too few to read text")
    spread = [known[i * len(known) // (2 * width)] for i in range(2 * width)]
    return torch.tensor(spread, dtype=torch.int64).view(2, width)


def embedded_tokens(network: PreTrainedModel) -> int:
    """How many token ids have an embedding."""
    embedding: Module | None = network.get_input_embeddings()
    weight = getattr(embedding, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else int(network.config.get_text_config().vocab_size)


def longest(network: PreTrainedModel) -> int | None:
    """Tokens that the configuration allows in a sequence, None if it says nothing."""
    said = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    return said if isinstance(said, int) and said > 0 else None


def _is_block(name: str, module: Module) -> bool:
    *parents, last = name.split(".")
    return last.isdigit() and not any(p.isdigit() for p in parents) and len(list(module.children())) > 0


def _check_causal(network: PreTrainedModel, name: str, one: Tensor, later: Tensor, first: _Pass, half: int) -> None:
    """Raises InputError if rows before place `half` are other ones where other tokens follow."""
    bound = _SAME_SHAPE.get(network.dtype, _HALF[0])
    if not _apart(first.rows(0, half), _run(network, network, later, name).rows(0, half), bound):
        return
    kind = f"model {name!r} ({type(network).__name__})"
    if _apart(first.rows(0, half), _run(network, network, one, name).rows(0, half), bound):
        raise InputError(f"{kind} gives other rows each time that it reads the same text: nothing of it can be stored")
    raise InputError(
        f"{kind} is not causal: a later token changes the rows of earlier ones. saeql reads models that predict the "
        "next token from those before it; encoders, and decoders that attend to both sides, are none"
    )


def _apart(ours: list[Tensor], theirs: list[Tensor], bound: float) -> bool:
    """Whether two lists of rows `[tokens, d]` differ by more than a part of their norm."""
    return any(
        not bool(((one - other).norm(dim=-1) <= bound * one.norm(dim=-1) + 1e-30).all())
        for one, other in zip(ours, theirs, strict=True)
    )


def _head(network: PreTrainedModel, first: _Pass) -> tuple[Module | None, str | None]:
    """The module that gives what the head reads, and why the head cannot be called on some of it alone."""
    for module, output in first.direct:
        states = getattr(output, "last_hidden_state", None)
        if not isinstance(states, Tensor) or states.ndim != 3:
            continue
        some = states[:, 1:4]
        with torch.inference_mode(), answering({module: type(output)(last_hidden_state=some)}):
            try:
                ids = torch.ones(some.shape[:2], dtype=torch.int64, device=some.device)
                logits = network(ids, use_cache=False).logits
            # As in a pass.
            except Exception as error:
                return module, f"the head of {type(network).__name__} needs more than states: {first_line(error)}"
        bound = _OTHER_SHAPE.get(network.dtype, _HALF[1])
        if logits.shape[1] != some.shape[1] or _apart([first.logits[0, 1:4].float()], [logits[0].float()], bound):
            return module, f"the head of {type(network).__name__} gives other logits for some states alone"
        return module, None
    return None, f"{type(network).__name__} calls no module that gives the states which its head reads"


def _run(network: PreTrainedModel, called: Module, ids: Tensor, name: str, advice: str = "") -> _Pass:
    blocks: dict[str, Tensor] = {}
    direct: list[tuple[Module, Any]] = []
    depth = 0

    def keep(block: str) -> Callable[..., None]:
        def kept(_module: Module, _inputs: object, output: object) -> None:
            vectors = vectors_of(output)
            if isinstance(vectors, Tensor) and vectors.ndim == 3 and vectors.shape[:2] == ids.shape:
                blocks.pop(block, None)
                blocks[block] = vectors.detach().clone()

        return kept

    def enter(_module: Module, _inputs: object) -> None:
        nonlocal depth
        depth += 1

    def leave(module: Module, _inputs: object, output: object) -> None:
        nonlocal depth
        depth -= 1
        if depth == 1:
            direct.append((module, output))

    modules = dict(network.base_model.named_modules())
    handles = [modules[block].register_forward_hook(keep(block)) for block in block_names(network)]
    handles += [module.register_forward_pre_hook(enter) for module in network.modules()]
    handles += [module.register_forward_hook(leave) for module in network.modules()]
    try:
        with torch.inference_mode():
            output = called(ids.to(network.device), use_cache=False)
    # Whatever a model's code raises, of any class, its user needs the model's name and the length.
    except Exception as error:
        raise InputError(
            f"model {name!r} ({type(network).__name__}) cannot read {ids.shape[1]} token ids in a trial pass: "
            f"{first_line(error)}" + (f"; {advice}" if advice else "")
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    found = output.logits if called is network else vectors_of(output)
    if not isinstance(found, Tensor) or found.ndim != 3:
        raise InputError(f"model {name!r} ({type(network).__name__}) gives no logits for each token")
    return _Pass(blocks, found, direct)
