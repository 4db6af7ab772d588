"""The architecture that a configuration names."""

from ingest.sae.architecture import Architecture
from ingest.sae.batch_topk import BatchTopK
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.topk import TopK

INFERENCE = Objective(k_aux=0)


def architecture_of(config: SAEConfig, objective: Objective = INFERENCE) -> Architecture:
    """The encoder of `config`, and the loss that `objective` asks for."""
    kept = {"centred": config.centred, "k_aux": objective.k_aux, "aux_coefficient": objective.aux_coefficient}
    match config.architecture:
        case "topk":
            return TopK(int(config.k or 0), **kept)  # type: ignore[arg-type]
        case "batchtopk" | "matryoshka":
            return BatchTopK(int(config.k or 0), **kept, groups=config.groups)  # type: ignore[arg-type]
    raise NotImplementedError(config.architecture)
