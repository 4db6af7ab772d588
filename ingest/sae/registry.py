"""Gives the architecture that a configuration names."""

from ingest.sae.architecture import Architecture
from ingest.sae.architectures.batch_topk import BatchTopK
from ingest.sae.architectures.gated import Gated
from ingest.sae.architectures.jumprelu import JumpReLU
from ingest.sae.architectures.relu import ReLU
from ingest.sae.architectures.topk import TopK
from ingest.sae.config import Objective, SAEConfig

INFERENCE = Objective(k_aux=0)


def architecture_of(config: SAEConfig, objective: Objective = INFERENCE) -> Architecture:
    """The encoder of `config`, and the loss that `objective` asks for."""
    match config.architecture:
        case "relu":
            return ReLU(config.centred)
        case "jumprelu":
            return JumpReLU(config.centred, objective.penalty, objective.bandwidth)
        case "gated":
            return Gated(config.centred)
    k, k_aux, weight = int(config.k or 0), objective.k_aux, objective.aux_coefficient
    if config.architecture == "topk":
        return TopK(k, config.centred, k_aux, weight)
    return BatchTopK(k, config.centred, k_aux, weight, config.groups)
