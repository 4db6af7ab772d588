"""The study file: what a catalog is made of, checked whole."""
