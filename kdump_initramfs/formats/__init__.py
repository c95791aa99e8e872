"""Byte formats, one a module, each a function between bytes and values; they know nothing of this tool."""
