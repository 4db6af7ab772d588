"""One directory, one commit point."""
