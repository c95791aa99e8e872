"""What is wrong with this machine, and the one command that mends it."""
