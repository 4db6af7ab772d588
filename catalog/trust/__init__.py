"""A catalog from somebody else: what it may not do, and what its reader allowed."""
