"""Makes the configuration of a training run from a study's [[sae]] section and its parent."""

from dataclasses import replace

import torch

from catalog.errors import InputError
from catalog.study.inheritance import unread_keys
from catalog.study.sae import WIDTH, K, Sae
from catalog.study.terms import KEEPS_K
from ingest.sae.architecture import Weights
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.model import SAE
from ingest.sae.training.initial_weights import check_one_norm, unit_decoder
from ingest.sae.training.job import Parent
from ingest.sae.training.settings import TrainConfig

_SHRINKING = (16, 8, 4, 2, 1)
"""Matryoshka: the nested dictionaries are the width divided by these."""


def shape(sae: Sae, d_in: int, d_out: int, model_name: str, parent: SAE | None) -> SAEConfig:
    """What the SAE is; what the section leaves open is the parent's.

    Raises InputError if the parent has other widths than asked for, or than the hookpoint, and for a key that its
    architecture does not read.
    """
    old = parent.config if parent else None
    architecture = sae.architecture or (old.architecture if old else "topk")
    width = sae.width or (old.width if old else WIDTH)
    if old and (old.d_in, old.out) != (d_in, d_out):
        raise InputError(
            f"the parent of {sae.name!r} reads rows of width {old.d_in} and writes {old.out}, but {sae.hookpoint} "
            f"has width {d_in}" + (f" and {sae.target} {d_out}" if sae.target else "") + ": name its own hookpoint"
        )
    if old and width != old.width:
        raise InputError(f"{sae.name!r} asks for {width} latents, and its parent has {old.width}: leave width out")
    if old and (old.target_hookpoint is None) != (sae.target is None):
        raise InputError(f"{sae.name!r} and its parent must both be SAEs, or both transcoders (key `target`)")
    for key, wrong in unread_keys(sae, architecture):
        raise InputError(f"{sae.name!r}: {key} {wrong}; leave it out")
    k = sae.k or (old.k if old else None) or min(K, width)
    groups = sae.groups or (old.groups if old else ()) or tuple(sorted({max(width // n, 1) for n in _SHRINKING}))
    return SAEConfig(
        d_in=d_in,
        width=width,
        k=k if architecture in KEEPS_K else None,
        model_name=model_name,
        hookpoint=sae.hookpoint,
        architecture=architecture,
        centred=old.centred if old else sae.target is None,
        groups=groups if architecture == "matryoshka" else (),
        target_hookpoint=sae.target,
        d_out=d_out if sae.target else None,
    )


def training(sae: Sae, config: SAEConfig, rows: int, parent_sparsity: float | None) -> TrainConfig:
    """How it is trained on `rows` rows; `parent_sparsity` is the coefficient that its parent ended with.

    What else the section leaves to the parent stands in it as its plan has it: see `parents.inherited`.
    """
    sparsity = next((s for s in (sae.sparsity, parent_sparsity) if s is not None), Objective.sparsity)
    from_scratch = sae.steps // 10 if sae.parent is None else 0
    return TrainConfig(
        config,
        objective=Objective(
            k_aux=min(Objective.k_aux, config.width) if sae.k_aux is None else sae.k_aux,
            sparsity=sparsity,
            penalty=sae.penalty or Objective.penalty,
            bandwidth=sae.bandwidth or Objective.bandwidth,
            tilt=sae.tilt,
        ),
        steps=sae.steps,
        batch=min(sae.batch, rows // sae.processes * sae.processes),
        learning_rate=sae.lr,
        warmup=sae.warmup_steps,
        decay=sae.decay_steps,
        schedule=sae.schedule,
        sparsity_warmup=from_scratch if sae.sparsity_warmup is None else sae.sparsity_warmup,
        l0_range=sae.l0_range,
        resample_every=sae.resample_every or 0,
        precision=sae.precision,
        dead_after=sae.dead_after,
        seed=sae.seed,
    )


def beginning(parent: SAE, digest: str, config: SAEConfig) -> Parent:
    """The parent's weights in the architecture of `config`: its threshold is kept where both have one.

    A jumprelu child of a parent without one gets its first when the training begins: it is one of scaled activations,
    and only then is the scale known.

    Raises InputError if both keep k and the parent's decoder rows differ in norm.
    """
    weights = parent.weights
    latents = len(weights.encoder)
    if config.architecture in KEEPS_K and parent.config.architecture in KEEPS_K:
        check_one_norm(weights, config.architecture)
    if config.architecture == "jumprelu" and weights.threshold is not None:
        # One per latent before norms move into the activations: each takes its own row's.
        weights = replace(weights, threshold=weights.threshold.clamp(min=0).expand(latents))
    weights = unit_decoder(weights)
    old = weights.threshold
    threshold = magnitude = bias = None
    if config.architecture == "jumprelu":
        threshold = None if old is None else old.clone()
    elif config.architecture in ("batchtopk", "matryoshka"):
        threshold = torch.tensor(-1.0) if old is None or old.ndim else old
    elif config.architecture == "gated":
        zeros = torch.zeros(latents)
        magnitude = zeros if weights.magnitude is None else weights.magnitude
        bias = weights.encoder_bias.clone() if weights.magnitude_bias is None else weights.magnitude_bias
    changed: Weights = replace(weights, threshold=threshold, magnitude=magnitude, magnitude_bias=bias)
    return Parent(changed, digest, parent.scale, parent.target_scale)
