"""One endpoint: what is asked of it, what it sends, what it costs."""
