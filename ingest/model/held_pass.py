"""Runs trial passes in which modules answer with what they gave before, so that one place alone is disturbed."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ingest.model.hookpoints import calling, vectors_of
from ingest.model.language_model import LanguageModel


def recorded_pass(
    model: LanguageModel, seen: Module, seen_enters: bool, module: Module, enters: bool
) -> tuple[dict[Module, list[Any]], Tensor, Tensor]:
    """(what modules without parts gave, what stood at the second place, at the first) in an undisturbed pass."""
    recorded: dict[Module, list[Any]] = defaultdict(list)
    there: list[Tensor] = []
    own: list[Tensor] = []

    def keep(one: Module, args: tuple[Any, ...], output: Any) -> None:
        given = args[0] if args else None
        # What gives back what it was given (a dropout) lets an addition through.
        passes = isinstance(given, Tensor) and isinstance(output, Tensor) and torch.equal(given, output)
        recorded[one].append(_PASSES if passes else _copied(output))

    leaves = [one for one in model.network.modules() if next(one.children(), None) is None]
    handles = [one.register_forward_hook(keep) for one in leaves]
    handles += [seeing(seen, seen_enters, there), seeing(module, enters, own)]
    try:
        with torch.inference_mode():
            model.network(model.layout.trial.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return recorded, there[-1], own[-1]


_PASSES = object()


def _copied(output: Any) -> Any:
    """Some models add to what a module returned, in its place."""
    if isinstance(output, Tensor):
        return output.clone()
    return type(output)(map(_copied, output)) if type(output) in (tuple, list) else output


@contextmanager
def held(recorded: dict[Module, list[Any]]) -> Iterator[None]:
    """Inside, each module of `recorded` answers its calls with what it gave, in their order."""

    def answer(module: Module) -> Callable[..., Any]:
        left = iter(recorded[module])

        def given(*args: Any, **kwargs: Any) -> Any:
            return args[0] if (found := next(left)) is _PASSES else _copied(found)

        return given

    with calling({module: answer(module) for module in recorded}):
        yield


def adding(module: Module, enters: bool, added: Tensor) -> Any:
    """A hook that adds to a module's input or output."""

    def enter(_module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args and isinstance(args[0], Tensor):
            return (args[0] + added, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + added}

    def leave(_module: Module, _args: object, output: Any) -> Any:
        if isinstance(output, tuple | list):
            return type(output)([output[0] + added, *output[1:]])
        return output + added

    if enters:
        return module.register_forward_pre_hook(enter, with_kwargs=True)
    return module.register_forward_hook(leave)


def seeing(module: Module, enters: bool, found: list[Tensor]) -> Any:
    """A hook that keeps a module's input or output."""

    def enter(_module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append((args[0] if args else kwargs["hidden_states"]).clone())

    def leave(_module: Module, _args: object, output: Any) -> None:
        found.append(vectors_of(output).clone())

    if enters:
        return module.register_forward_pre_hook(enter, with_kwargs=True)
    return module.register_forward_hook(leave)
