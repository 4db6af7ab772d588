"""Floor 2: model, text, activations, SAEs, training: everything that needs torch."""
