"""Prompt templates, and how answers are read."""
