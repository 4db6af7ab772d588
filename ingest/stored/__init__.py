"""SAEs that exist."""
