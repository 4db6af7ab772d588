"""Sparse autoencoders: select, encode, train, evaluate, and save in the SAELens layout."""
