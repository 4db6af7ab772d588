"""The embedded model: a small Llama trained on docstrings and prose, shipped with the package."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
