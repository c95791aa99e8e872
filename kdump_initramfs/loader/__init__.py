"""How a machine is armed: the command line, kexec, and what is loaded now."""
