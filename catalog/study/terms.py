"""Names architectures, schedules, precisions and penalties, for study files and for training alike."""

from typing import Literal, get_args

Architecture = Literal["relu", "topk", "batchtopk", "jumprelu", "gated", "matryoshka"]
"""How pre-activations become a code."""
Schedule = Literal["linear", "cosine"]
"""Shape in which the learning rate falls."""
Precision = Literal["float32", "bfloat16"]
"""Format in which training multiplies."""
Penalty = Literal["step", "tanh"]
"""jumprelu: what its L0 is replaced by in the loss."""

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
KEEPS_K: tuple[Architecture, ...] = ("topk", "batchtopk", "matryoshka")
"""Those that fix the number of active latents; the others have a sparsity penalty."""

PACKAGE = "package:"
"""Beginning of a model's source that is a file of an installed package."""
PACKAGED_MODELS = ("smollm2", "gemma3-270m")
"""Short names of models that come in packages."""
