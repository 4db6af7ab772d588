"""Reads or replaces activations at a hookpoint of a model's forward pass: a module's output, or its input.

`layers.3.mlp` is the module's output. `layers.3.mlp.input` is what goes into it: its first positional argument that
is a tensor, else the keyword `hidden_states`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.hooks import RemovableHandle
from transformers.utils.generic import ModelOutput

from catalog.errors import InputError

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Hookpoint:
    """A module of a model, and which side of it is meant."""

    name: str
    module: Module
    enters: bool
    """Whether it is the module's input."""

    def watch(self, tokens: torch.Size, keep: Callable[[Tensor, Any], None]) -> RemovableHandle:
        """Have `keep` called as a pass over ids of shape `tokens` `[batch, seq]` comes by, until the handle is removed.

        `keep` is given a copy of the vectors, `[batch, seq, d]`, since a model may write into its own (Falcon adds
        attention to what its MLP returned); and what the module returned, a tuple in some architectures, None for an
        input. The pass raises InputError if there is no vector for each token, and when it calls the module a second
        time.
        """
        calls = 0

        def take(found: object, returned: object) -> None:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise InputError(
                    f"the forward pass calls the module of hookpoint {self.name!r} more than once, and which call is "
                    "meant is not known: choose a module that is called once"
                )
            if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[:2] != tokens:
                said = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
                raise InputError(
                    f"hookpoint {self.name!r} does not give a vector for each token, but {said} for ids of shape "
                    f"{list(tokens)}: choose another"
                )
            keep(found.clone(), returned)

        def enter(_module: Module, args: tuple[Any, ...], kwargs: Arguments) -> None:
            at = self._place(args, kwargs)
            take(args[at] if isinstance(at, int) else kwargs[at], None)

        def leave(_module: Module, _args: object, output: object) -> None:
            take(vectors_of(output), output)

        if self.enters:
            return self.module.register_forward_pre_hook(enter, with_kwargs=True)
        return self.module.register_forward_hook(leave)

    @contextmanager
    def fed(self, vectors: Tensor) -> Iterator[None]:
        """Inside, the module of an input is called with `vectors` `[batch, seq, d]` in place of its own."""

        def enter(_module: Module, args: tuple[Any, ...], kwargs: Arguments) -> tuple[tuple[Any, ...], Arguments]:
            at = self._place(args, kwargs)
            if isinstance(at, int):
                return (*args[:at], vectors, *args[at + 1 :]), kwargs
            return args, {**kwargs, at: vectors}

        handle = self.module.register_forward_pre_hook(enter, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _place(self, args: tuple[Any, ...], kwargs: Arguments) -> int | str:
        """Number or name of the argument that is the input."""
        for number, value in enumerate(args):
            if isinstance(value, Tensor):
                return number
        if isinstance(kwargs.get("hidden_states"), Tensor):
            return "hidden_states"
        said = ", ".join([*(type(value).__name__ for value in args), *kwargs]) or "nothing"
        raise InputError(
            f"the module of hookpoint {self.name!r} is called with no tensor by position, and none as hidden_states; "
            f"it is given {said}: choose another"
        )


def vectors_of(output: Any) -> Any:
    """Of what a module returned the part that holds its vectors: `[batch, seq, d]` where it is a tensor."""
    if isinstance(output, ModelOutput):
        return output.get("last_hidden_state")
    return output[0] if isinstance(output, tuple | list) and output else output


@contextmanager
def calling(forwards: Mapping[Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside, each module runs the given function in place of its own forward."""
    own = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            # On the instance, where it goes before the class's method.
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, before in own.items():
            module.__dict__.pop("forward", None)
            if before is not None:
                module.__dict__["forward"] = before


@contextmanager
def answering(answers: Mapping[Module, Any]) -> Iterator[None]:
    """Inside, each module returns the answer that is given here, and computes nothing."""
    with calling({module: partial(_answer, answer) for module, answer in answers.items()}):
        yield


def _answer(given: Any, *_: object, **__: object) -> Any:
    return given
