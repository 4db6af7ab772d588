"""Measures a model's logit lens, and which hookpoints have one, in trial passes: names decide nothing.

A direction v of the residual stream moves the logits along U v, where U is the head's weight times what stands between
the last block and the head: a norm's gain (and, for a LayerNorm, its subtraction of the mean), a projection. U is taken
apart piece by piece and each piece is compared with what the model computed; where the whole does not give the model's
own logits up to one positive factor (or a soft cap, which keeps their order), there is no lens.

A hookpoint has a lens if what is added to its vectors arrives in the stream behind the last block as it is, up to one
positive factor, while every module in between gives what it gave before. That holds for blocks, for the outputs of
attention and MLP in a pre-norm model, and for the norm behind them in a model that has one; not for queries or keys,
for what goes into a projection, or for an output that is normed before it is added. An input that is the stream itself
(that of a block's second norm, say) has one too.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from catalog.errors import InputError, first_line
from ingest.model.held_pass import adding, held, recorded_pass, seeing
from ingest.model.hookpoints import vectors_of
from ingest.model.language_model import LanguageModel

_FULL, _HALF = 1e-3, 0.05
"""What rows may differ by, as a part of their norm, in float32 and in half precision."""


class NoLens(Exception):
    """Why there are no logits."""


def unembedding(model: LanguageModel) -> Tensor:
    """What a residual direction is multiplied with to give logits: `[vocabulary, d_model]`, float32, on the CPU.

    Norm and projections behind the last block are folded in. Raises InputError where they, and the head, do not
    reproduce the model's own logits.
    """
    try:
        return _unembedding(model)
    except NoLens as why:
        raise InputError(f"model {model.spec.name!r} has no logit lens: {why}") from why


def lens_problem(model: LanguageModel, hookpoint: str, width: int) -> str | None:
    """Why vectors of `width` dimensions at `hookpoint` have no logits; None if they have.

    Raises UnknownName for a hookpoint that there is not.
    """
    place = model.place(hookpoint)
    d_model = model.layout.d_model
    if width != d_model:
        return f"decoder rows have {width} dimensions, the model's residual stream {d_model}: they have no logits"
    try:
        _unembedding(model)
    except NoLens as why:
        return f"{why}: no logits"
    try:
        arrives = _arrives(model, place.module, place.enters) or _is_the_stream(model, hookpoint)
    # A model's own code, run with parts of it held fixed, may raise anything.
    except Exception as error:
        return (
            f"whether {hookpoint!r} writes to the residual stream cannot be found out ({first_line(error)}): no logits"
        )
    if not arrives:
        return f"vectors at {hookpoint!r} are not added to the residual stream as they are: they have no logits"
    return None


def _unembedding(model: LanguageModel) -> Tensor:
    kind = type(model.network).__name__
    head: Module | None = model.network.get_output_embeddings()  # type: ignore[no-untyped-call]
    weight = getattr(head, "weight", None)
    if head is None or not isinstance(weight, Tensor) or weight.ndim != 2:
        raise NoLens(f"{kind} has no output embedding")
    stream, calls, logits = _after_blocks(model)
    made = next((call for call in reversed(calls) if call[0] is head), None)
    if made is None:
        raise NoLens(f"{kind} does not call its output embedding")
    bound = _bound(model)
    if not _alike(made[2], logits, bound) and not _same_order(made[2], logits):
        raise NoLens(f"the logits of {kind} are not those of its output embedding")
    found = weight.detach().float().cpu()
    if found.shape[0] != model.layout.vocabulary:
        raise NoLens(f"the output embedding of {kind} has {found.shape[0]} rows for {model.layout.vocabulary} logits")
    # From the head's input back to the last block, a module at a time.
    states, before = made[1], calls[: calls.index(made)]
    while not _alike(stream, states, 1e-6):
        made = next((c for c in reversed(before) if c[2].shape == states.shape and _alike(c[2], states, 1e-6)), None)
        if made is None:
            raise NoLens(f"what lies between the last block and the head of {kind} is not known")
        module, states, _ = made
        before = before[: before.index(made)]
        found = _through(module, states, found, bound, kind)
    return found


_Call = tuple[Module, Tensor, Tensor]
"""A module that was called behind the last block, what it was given and gave, `[seq, d]` in float32."""


def _after_blocks(model: LanguageModel) -> tuple[Tensor, list[_Call], Tensor]:
    """(the last block's output, the calls after it, the logits) of a trial pass."""
    calls: list[_Call] = []
    stream: list[Tensor] = []
    last = next(reversed(model.layout.blocks.values()))

    def keep_stream(_module: Module, _args: object, output: Any) -> None:
        stream.append(vectors_of(output)[0].float().clone())
        calls.clear()

    def keep(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        found = vectors_of(output)
        if stream and given is not None and given.ndim == 3 and isinstance(found, Tensor) and found.ndim == 3:
            calls.append((module, given[0].float().clone(), found[0].float().clone()))

    modules = [module for module in model.network.modules() if all(part is not last for part in module.modules())]
    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in modules]
    handles.append(last.register_forward_hook(keep_stream))
    try:
        with torch.inference_mode():
            logits = model.network(model.layout.trial.to(model.device), use_cache=False).logits[0].float()
    finally:
        for handle in handles:
            handle.remove()
    return stream[-1], calls, logits


def _through(module: Module, states: Tensor, found: Tensor, bound: float, kind: str) -> Tensor:
    """`found` `[vocabulary, d]`, which reads what `module` gives, as it reads what the module is given."""
    with torch.inference_mode():
        if isinstance(module, torch.nn.Linear):
            return found @ module.weight.detach().float().cpu()
        d = states.shape[1]
        like = next(module.parameters(), states)

        def norm(x: Tensor) -> Tensor:
            given: Tensor = module(x.to(like.dtype).to(like.device)[None])[0]
            return given.float().to(states.device)

        # Rows of mean 0 and mean square 1, so that both kinds of norm give their gain and bias as they are.
        signs = torch.tensor([1.0, -1.0], device=states.device).repeat(d // 2 + 1)[:d]
        if d % 2:
            signs[-3:] = torch.tensor([1.0, 1.0, -2.0], device=states.device) / 2**0.5
            signs[-3:] *= (3 / signs[-3:].square().sum()) ** 0.5
        bias = norm(torch.zeros(1, d, device=states.device))
        gain = (norm(signs[None]) - bias) / signs
        mean = states.mean(1, keepdim=True)
        expected = norm(states) - bias
        for centred in (False, True):
            if _alike_rows((states - mean if centred else states) * gain, expected, bound):
                scaled = found * gain.cpu()
                return scaled - scaled.mean(1, keepdim=True) if centred else scaled
    raise NoLens(f"{type(module).__name__} behind the last block of {kind} is no norm with a gain")


def _arrives(model: LanguageModel, module: Module, enters: bool) -> bool:
    """Whether what is added at a place is behind the last block what it was, times a positive factor."""
    last = next(reversed(model.layout.blocks.values()))
    added, _, behind = _moved(model, module, enters, last, False)
    return _is_multiple(behind, added, _bound(model))


def _is_the_stream(model: LanguageModel, hookpoint: str) -> bool:
    """Whether what is added to the input of the place's block reaches place and last block as it is."""
    names = [name for name in model.layout.blocks if hookpoint_inside(model, hookpoint, name)]
    if not names:
        return False
    block, place = model.layout.blocks[names[0]], model.place(hookpoint)
    added, _, there = _moved(model, block, True, place.module, place.enters)
    return _is_multiple(there, added, _bound(model)) and _arrives(model, block, True)


def hookpoint_inside(model: LanguageModel, hookpoint: str, block: str) -> bool:
    """Whether a hookpoint lies inside a block."""
    return hookpoint.removeprefix(f"{model.network.base_model_prefix}.").startswith(f"{block}.")


def _moved(
    model: LanguageModel, module: Module, enters: bool, seen: Module, seen_enters: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(what was added, what stood there, how it moved what stands at the second place), `[seq, d]` each.

    All modules without parts answer as in the undisturbed pass: only sums between them pass the addition on.
    """
    recorded, clean, was = recorded_pass(model, seen, seen_enters, module, enters)
    draws = torch.Generator().manual_seed(1)
    added = torch.randn(was.shape, generator=draws).to(was) * was.float().square().mean().sqrt().to(was)
    found: list[Tensor] = []
    with held(recorded), torch.inference_mode():
        handles = [adding(module, enters, added), seeing(seen, seen_enters, found)]
        try:
            model.network(model.layout.trial.to(model.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    return added[0].float(), was[0].float(), (found[-1].float() - clean.float())[0]


def _bound(model: LanguageModel) -> float:
    return _FULL if model.dtype == torch.float32 else _HALF


def _is_multiple(found: Tensor, of: Tensor, bound: float) -> bool:
    """Whether `found` is a positive multiple of `of`, one for all rows."""
    return found.shape == of.shape and _alike(of, found, bound)


def _alike(ours: Tensor, theirs: Tensor, bound: float) -> bool:
    """Whether `theirs` is a positive multiple of `ours`, of one shape, but for a part of its norm."""
    if ours.shape != theirs.shape:
        return False
    factor = (ours * theirs).sum() / ours.square().sum()
    return bool(factor > 0) and bool((theirs - factor * ours).norm() <= bound * theirs.norm())


def _alike_rows(ours: Tensor, theirs: Tensor, bound: float) -> bool:
    """The same, with a factor of its own for each row."""
    factor = (ours * theirs).sum(1, keepdim=True) / ours.square().sum(1, keepdim=True)
    close = (theirs - factor * ours).norm(dim=1) <= bound * theirs.norm(dim=1)
    return bool((factor > 0).all()) and bool(close.all())


def _same_order(ours: Tensor, theirs: Tensor) -> bool:
    """Whether logits of each token rank alike, as under a soft cap, and none of them is lost in it."""
    sorted_alike = theirs.gather(1, ours.argsort(1))
    return bool((sorted_alike.diff(dim=1) >= 0).all()) and bool((theirs.amax(1) > theirs.amin(1)).all())
