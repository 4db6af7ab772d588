"""Is the catalog whole?"""
