"""Models in GGUF files, made into folders that transformers loads in seconds."""
