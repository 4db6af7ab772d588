"""What the libraries themselves write and compute; run by test_sae_peers.py in a process that has them on its path.

    python peer.py write LIBRARY FOLDER     their SAEs with random weights, one folder each, with expected.npz
    python peer.py read LIBRARY FOLDER      for each folder in FOLDER with x.npy: what the library computes from it

expected.npz holds x [n, d], latents [n, M] and reconstruction [n, d_out].
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

D, M, N, K = 6, 20, 8, 3
LIBRARIES = {"saelens": "sae_lens", "sparsify": "sparsify", "dictionary_learning": "dictionary_learning"}
Found = tuple[torch.Tensor, torch.Tensor]


def randomise(module: torch.nn.Module) -> None:
    """Weights in sixteenths, which compress well; thresholds are positive."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = (torch.randn(parameter.shape) * 16).round() / 16
            parameter.copy_(values.abs() if "threshold" in name else values)


def saelens_computes(folder: Path, x: torch.Tensor) -> Found:
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder)
    return sae.encode(x), sae(x)


def saelens_writes(folder: Path) -> None:
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    variants: dict[str, tuple[str, dict[str, Any]]] = {
        "standard": ("standard", {}),
        "standard-uncentred": ("standard", {"apply_b_dec_to_input": False}),
        "topk": ("topk", {"k": K}),
        "topk-rescaled": ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
        "jumprelu": ("jumprelu", {}),
        "gated": ("gated", {}),
        "transcoder": ("transcoder", {"d_out": 5, "apply_b_dec_to_input": False}),
        "skip-transcoder": ("skip_transcoder", {"d_out": 5, "apply_b_dec_to_input": False}),
        "jumprelu-transcoder": ("jumprelu_transcoder", {"d_out": 5, "apply_b_dec_to_input": False}),
        "jumprelu-skip-transcoder": ("jumprelu_skip_transcoder", {"d_out": 5, "apply_b_dec_to_input": False}),
    }
    for name, (architecture, settings) in variants.items():
        sae_class, config_class = get_sae_class(architecture)
        metadata = SAEMetadata(model_name="toy", hook_name="blocks.1.hook_resid_post")
        sae = sae_class(config_class(d_in=D, d_sae=M, metadata=metadata, **settings))
        randomise(sae)
        sae.save_model(folder / name)


def sparsify_computes(folder: Path, x: torch.Tensor) -> Found:
    from sparsify import SparseCoder

    sae = SparseCoder.load_from_disk(folder)
    top, indices, _ = sae.encode(x)
    latents = torch.zeros(len(x), sae.num_latents).scatter(1, indices, top)
    # Not forward(): with multi_topk it gives the reconstruction of its second loss, from 4 k latents.
    y = sae.decode(top, indices)
    return latents, y if sae.W_skip is None else y + x @ sae.W_skip.mT


def sparsify_writes(folder: Path) -> None:
    from sparsify import SaeConfig, SparseCoder

    variants = {
        "topk": {"num_latents": M},
        "multi-topk": {"num_latents": M, "multi_topk": True},
        "expansion": {"expansion_factor": 4},
        "transcoder": {"num_latents": M, "transcode": True},
        "skip-transcoder": {"num_latents": M, "transcode": True, "skip_connection": True},
    }
    for name, settings in variants.items():
        sae = SparseCoder(D, SaeConfig(k=K, **settings))
        randomise(sae)
        sae.save_to_disk(folder / name)


def dictionary_learning_computes(folder: Path, x: torch.Tensor) -> Found:
    from dictionary_learning.utils import load_dictionary

    sae, _ = load_dictionary(str(folder), "cpu")
    latents = sae.encode(x)
    return latents, sae.decode(latents)


def dictionary_learning_writes(folder: Path) -> None:
    from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    made = {
        "standard": AutoEncoder(D, M),
        "standard-any-norm": AutoEncoder(D, M),
        "standard-new": AutoEncoderNew(D, M),
        "topk": AutoEncoderTopK(D, M, K),
        "batchtopk": BatchTopKSAE(D, M, K),
        "batchtopk-unset": BatchTopKSAE(D, M, K),
        "jumprelu": JumpReluAutoEncoder(D, M),
        "gated": GatedAutoEncoder(D, M),
        "matryoshka": MatryoshkaBatchTopKSAE(D, M, K, [4, 5, 11]),
    }
    for name, sae in made.items():
        randomise(sae)
        if name == "standard":
            sae.decoder.weight.data /= sae.decoder.weight.data.norm(dim=0)
        if name in ("batchtopk", "matryoshka"):
            sae.threshold.fill_(0.75)
        trainer = {
            "dict_class": type(sae).__name__, "activation_dim": D, "dict_size": M, "lm_name": "toy", "layer": 1,
            "submodule_name": "resid_post_layer_1", **({"k": K} if hasattr(sae, "k") else {}),
        }  # fmt: skip
        (folder / name).mkdir(parents=True)
        torch.save(sae.state_dict(), folder / name / "ae.pt")
        (folder / name / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))


def main(command: str, library: str, folder: Path) -> None:
    torch.manual_seed(0)
    functions = globals()
    if command == "write":
        functions[f"{library}_writes"](folder)
        for place in folder.iterdir():
            np.save(place / "x.npy", torch.randn(N, D).numpy())
    for place in folder.iterdir():
        x = torch.from_numpy(np.load(place / "x.npy"))
        inner = [found.parent for found in place.glob("*/sae.safetensors")]
        with torch.no_grad():
            latents, reconstruction = functions[f"{library}_computes"](inner[0] if inner else place, x)
        np.savez(place / "expected.npz", x=x, latents=latents.numpy(), reconstruction=reconstruction.numpy())
        (place / "x.npy").unlink()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
