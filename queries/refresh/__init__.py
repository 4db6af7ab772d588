"""Which steps are stale, and how they become current."""
