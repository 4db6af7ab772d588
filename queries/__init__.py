"""Floor 4: what people call. The refresh steps and their engine, SQL, search, the command line."""
