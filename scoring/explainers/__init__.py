"""One file for each way of labelling a feature."""
