"""Text: where documents come from, their split, their tokens."""
