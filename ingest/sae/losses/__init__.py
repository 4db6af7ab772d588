"""What training minimises, and its gradient."""
