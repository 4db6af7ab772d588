"""SAELens' checkpoints: the layout that SAE.save writes, where SAELens has the architecture."""

from pathlib import Path

from catalog.errors import InputError
from ingest.sae.layout.cfg import KNOWN, saelens_architecture
from ingest.sae.layout.hookpoint_names import INPUT, to_transformer_lens
from ingest.sae.model import SAE


def save_saelens(folder: Path, sae: SAE) -> None:
    """Write the SAE so that SAELens (6 and later) reads it; BatchTopK and Matryoshka as JumpReLU, as it does itself.

    Raises InputError for an SAE that SAELens cannot express.
    """
    config = sae.config
    name = saelens_architecture(config, sae.weights.skip is not None)
    if name not in KNOWN:
        what = "transcoder" if config.target_hookpoint is not None else "SAE with a skip path"
        raise InputError(
            f"the SAELens format cannot hold a {what} of architecture {config.architecture!r}: "
            f"it has {', '.join(KNOWN)} alone"
        )
    for hookpoint in (config.hookpoint, config.target_hookpoint or ""):
        if hookpoint.endswith(INPUT) and to_transformer_lens(hookpoint) == hookpoint:
            raise InputError(
                f"the SAELens format cannot hold hookpoint {hookpoint!r}: TransformerLens has no name for what goes "
                "into that module that means the same in every model; it has for layers.N.input, layers.N.mlp.input"
            )
    sae.save(folder)
