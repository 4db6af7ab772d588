"""Other libraries' SAEs: one module per format, and `load` as the way in."""
