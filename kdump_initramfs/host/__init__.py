"""What this machine is: facts read from files below a root directory."""
