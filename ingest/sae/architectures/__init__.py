"""One file for each architecture, after one paper."""
