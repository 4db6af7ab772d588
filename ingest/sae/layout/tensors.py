"""Names an SAE's weights as SAELens does, and reads them back.

Ours hold one latent per row, so W_enc is transposed. A scalar threshold is written once per latent, as SAELens
exports BatchTopK as JumpReLU.
"""

from pathlib import Path

import torch
from torch import Tensor

from catalog.errors import InputError
from ingest.sae.architecture import Weights
from ingest.sae.config import SAEConfig
from ingest.sae.layout.read_files import checked

ONE_THRESHOLD = ("batchtopk", "matryoshka")
"""Architectures whose threshold is a scalar."""
_FACTOR = "scaling_factor"
"""What activations are multiplied by; SAELens for a time wrote it as ones where there was none."""


def to_saelens(config: SAEConfig, weights: Weights) -> dict[str, Tensor]:
    """The tensors of SAELens' layout, each with its own memory."""
    tensors = {
        "W_enc": weights.encoder.T,
        "b_gate" if config.architecture == "gated" else "b_enc": weights.encoder_bias,
        "W_dec": weights.decoder,
        "b_dec": weights.decoder_bias,
        "threshold": weights.threshold,
        "r_mag": weights.magnitude,
        "b_mag": weights.magnitude_bias,
        "W_skip": weights.skip,
    }
    if config.architecture in ONE_THRESHOLD:
        threshold = torch.tensor(-1.0) if weights.threshold is None else weights.threshold
        tensors["threshold"] = threshold.expand(config.width)
    return {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}


def shapes(config: SAEConfig, skip: bool) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor of SAELens' layout has."""
    latents = (config.width,)
    found: dict[str, tuple[int, ...]] = {
        "W_enc": (config.d_in, config.width),
        "W_dec": (config.width, config.out),
        "b_dec": (config.out,),
    }
    match config.architecture:
        case "gated":
            found.update(b_gate=latents, r_mag=latents, b_mag=latents)
        case "jumprelu" | "batchtopk" | "matryoshka":
            found.update(b_enc=latents, threshold=latents)
        case _:
            found.update(b_enc=latents)
    if skip:
        found["W_skip"] = (config.out, config.d_in)
    return found


def from_saelens(tensors: dict[str, Tensor], config: SAEConfig, skip: bool, path: Path) -> Weights:
    """The weights.

    Raises InputError as `checked` does, for a scalar threshold that differs between latents, and for a factor of the
    activations that is not 1.
    """
    sizes = f"d_in {config.d_in} and width {config.width}"
    if config.d_out is not None:
        sizes += f" and d_out {config.d_out}"
    _check_factor(tensors.get(_FACTOR), path)
    found = checked(tensors, shapes(config, skip), path, sizes, unused=[_FACTOR])
    threshold = found.get("threshold")
    if threshold is not None and config.architecture in ONE_THRESHOLD:
        if bool((threshold != threshold[0]).any()):
            raise InputError(
                f"threshold in {path} differs between latents, but {config.architecture} has a single one: "
                f"remove metadata.saeql from the configuration to read a jumprelu SAE"
            )
        threshold = threshold[0].clone()
    return Weights(
        encoder=found["W_enc"].T.contiguous(),
        encoder_bias=found["b_gate" if config.architecture == "gated" else "b_enc"],
        decoder=found["W_dec"],
        decoder_bias=found["b_dec"],
        threshold=threshold,
        magnitude=found.get("r_mag"),
        magnitude_bias=found.get("b_mag"),
        skip=found.get("W_skip"),
    )


def _check_factor(factor: Tensor | None, path: Path) -> None:
    if factor is not None and not bool((factor == 1).all()):
        raise InputError(
            f"{path} has the tensor {_FACTOR}, which is not 1 everywhere: SAELens multiplies activations by it before "
            "it decodes them (finetuning_scaling_factor), which is not done here. Multiply the rows of W_dec by it and "
            "save the SAE without it"
        )
