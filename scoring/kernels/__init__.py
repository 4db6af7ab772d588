"""What the refresh steps call: rows of a query to rows of a table. Nothing heavy is imported before a call."""
