"""Specialized SAEs by ways of selecting text (Muhamed et al. 2024)."""
