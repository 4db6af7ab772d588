"""What leaves the program: tables, cards, lines, progress."""
