"""Which documents of a pool a specialized SAE is trained on (Specialized SAEs, section 2.3)."""
