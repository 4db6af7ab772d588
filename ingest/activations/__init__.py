"""Rows of the residual stream, and sparse codes."""
