"""Checkpoints of the ecosystem: one module per format, and `recognise` as the way in."""
