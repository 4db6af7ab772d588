"""`cfg.json` and safetensors: an SAE on disk."""
