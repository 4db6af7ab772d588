"""Vectors in Lance, versioned with the tables."""
