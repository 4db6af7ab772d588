"""The products of a training step, and who computes them."""
