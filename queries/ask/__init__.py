"""Reading, and nothing but: how a query gets in, and what may be in it."""
