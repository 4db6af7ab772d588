"""Whole studies: the demo, and specialized SAEs."""
