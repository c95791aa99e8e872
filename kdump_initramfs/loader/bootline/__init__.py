"""Where kernel command lines come from: what each source gives, and the edit of it that adds a parameter."""
