"""The subcommands: each reads what the arguments name, calls one arrow of the one direction, and prints its noun.

A module has the verbs of one group, their options beside them, and is imported when one of them is asked for: start-up
is paid by every post-install hook and every `status`.
"""
