"""One file for each way of judging a label."""
