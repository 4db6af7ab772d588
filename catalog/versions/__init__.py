"""What changed between snapshots, when and why."""
