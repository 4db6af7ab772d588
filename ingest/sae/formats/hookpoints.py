"""Names of hookpoints: the module whose output is read, and what TransformerLens calls the same place."""

import re


def from_transformer_lens(name: str) -> str:
    """`blocks.12.hook_resid_post` as `layers.12`, a block's output; any other name as it is."""
    block = re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", name)
    return f"layers.{block[1]}" if block else name


def to_transformer_lens(name: str) -> str:
    """The inverse of `from_transformer_lens`."""
    block = re.fullmatch(r"layers\.(\d+)", name)
    return f"blocks.{block[1]}.hook_resid_post" if block else name
