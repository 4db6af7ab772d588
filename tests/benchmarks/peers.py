"""The trainers of SAELens, dictionary_learning and sparsify, each as a function that takes one optimiser step.

Everything begins with the same unit decoder rows, their copy as encoder, and the rows' mean as decoder bias.
"""

import importlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

D, K = 256, 32
RATE = 1e-4


class Start(NamedTuple):
    """Where a peer begins."""

    decoder: "Tensor"
    """[latents, D], rows of norm 1."""
    mean: "Tensor"
    """[D]: of the rows."""
    batch: int
    dead_after: int
    """Tokens without firing after which a latent is dead."""


class Peer(NamedTuple):
    """Somebody else's trainer."""

    step: "Callable[[Tensor, float], object]"
    """One optimiser step on rows [batch, D] at a learning rate."""
    reconstruct: "Callable[[Tensor], Tensor]"
    """Rows [n, D] reconstructed, as at inference."""


def sae_lens(start: Start, kind: str) -> Peer:
    """SAELens' SAETrainer: `topk`, `sparse` (TopK with sparse activations) or `standard` (ReLU + L1)."""
    import torch
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sizes = {"d_in": D, "d_sae": len(start.decoder), "decoder_init_norm": 1.0}
    if kind == "standard":
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(**sizes))
    else:
        # Its sparse activations cannot be rescaled on a CPU: PyTorch's backward lacks a view of sparse tensors.
        sparse = kind == "sparse"
        how = {"use_sparse_activations": sparse, "rescale_acts_by_decoder_norm": not sparse}
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(**sizes, k=K, **how))
    with torch.no_grad():
        sae.W_dec.copy_(start.decoder)
        sae.W_enc.copy_(start.decoder.T)
        sae.b_dec.copy_(start.mean)
    config = SAETrainerConfig(
        total_training_samples=1 << 40,
        train_batch_size_samples=start.batch,
        lr_end=RATE,
        # It counts batches, not tokens.
        dead_feature_window=math.ceil(start.dead_after / start.batch),
    )
    trainer = SAETrainer(config, sae, iter(()))

    def step(x: "Tensor", rate: float) -> None:
        set_rate(trainer.optimizer, rate)
        trainer.maybe_reset_sparsity()
        trainer.step(x)
        trainer.n_training_steps += 1

    return Peer(step, sae)


def dictionary_learning(start: Start, kind: str) -> Peer:
    """dictionary_learning's TopKTrainer (`topk`) or StandardTrainer (`standard`, ReLU + L1)."""
    import torch
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    common = {"activation_dim": D, "dict_size": len(start.decoder), "layer": 0, "lm_name": "", "device": "cpu"}
    if kind == "topk":
        trainer = TopKTrainer(1 << 40, **common, k=K, lr=RATE, warmup_steps=0)
        trainer.dead_feature_threshold = start.dead_after
        bias = trainer.ae.b_dec
    else:
        # It counts dead latents only if it is to resample them: so late that it never comes to that.
        never = 1 << 39
        trainer = StandardTrainer(1 << 40, **common, warmup_steps=1, sparsity_warmup_steps=None, resample_steps=never)
        bias = trainer.ae.bias
    with torch.no_grad():
        trainer.ae.encoder.weight.copy_(start.decoder)
        trainer.ae.decoder.weight.copy_(start.decoder.T)
        bias.copy_(start.mean)
    done = 0

    def step(x: "Tensor", rate: float) -> None:
        # Step 0 would put the geometric median into the decoder bias.
        nonlocal done
        done += 1
        set_rate(trainer.optimizer, rate)
        trainer.update(done, x)

    return Peer(step, trainer.ae)


def sparsify(start: Start, kind: str) -> Peer:
    """A step as in sparsify's Trainer.fit with loss `fvu`, one SAE, AuxK on; `kind` is the optimiser."""
    import torch
    from schedulefree import ScheduleFreeWrapper
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig
    from sparsify.sign_sgd import SignSGD

    latents = len(start.decoder)
    coder = SparseCoder(D, SparseCoderConfig(num_latents=latents, k=K))
    with torch.no_grad():
        coder.encoder.weight.copy_(start.decoder)
        coder.W_dec.copy_(start.decoder)
        coder.b_dec.copy_(start.mean)
    optimiser: Any = torch.optim.Adam(coder.parameters())
    if kind == "signum":
        # The rate that its Trainer chooses.
        rate = 5e-3 / math.sqrt(latents / (1 << 14))
        optimiser = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=rate), momentum=0.95)
        optimiser.train()
    idle = torch.zeros(latents, dtype=torch.long)

    def step(x: "Tensor", rate: float) -> None:
        if kind == "adam":
            set_rate(optimiser, rate)
        out = coder(x, dead_mask=idle > start.dead_after)
        fired = torch.zeros(latents, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        (out.fvu + out.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        coder.set_decoder_norm_to_unit_norm()
        idle.add_(len(x))
        idle[fired] = 0

    def reconstruct(x: "Tensor") -> "Tensor":
        if kind == "signum":
            optimiser.eval()
        return coder(x).sae_out  # type: ignore[no-any-return]

    return Peer(step, reconstruct)


def set_rate(optimiser: Any, rate: float) -> None:
    """The learning rate of the next step, whatever a scheduler set behind the last one."""
    for group in optimiser.param_groups:
        group["lr"] = rate


PEERS: dict[str, tuple[Callable[[Start, str], Peer], str]] = {
    "sae_lens topk": (sae_lens, "topk"),
    "sae_lens topk, sparse": (sae_lens, "sparse"),
    "dictionary_learning topk": (dictionary_learning, "topk"),
    "sparsify topk, signum": (sparsify, "signum"),
    "sparsify topk, adam": (sparsify, "adam"),
    "sae_lens relu + L1": (sae_lens, "standard"),
    "dictionary_learning relu + L1": (dictionary_learning, "standard"),
}


def missing(name: str) -> str:
    """Why a peer cannot be imported, in a line; empty if it can. To be called before a peer is used."""
    if folder := os.environ.get("SAEQL_PEERS"):
        # Behind what is installed: what is measured must run on the same torch as ours.
        sys.path.append(str(Path(folder).resolve()))
    # Its kernels need a GPU wherever Triton is installed, and here everything runs on a CPU.
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    try:
        importlib.import_module(PEERS[name][0].__name__)
    except Exception as error:  # Whatever a foreign package raises when imported.
        return first_line(error)
    return ""


def first_line(error: Exception) -> str:
    """What went wrong, in a line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
