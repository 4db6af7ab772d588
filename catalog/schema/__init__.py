"""The numbered migrations, and the keys of their tables."""
