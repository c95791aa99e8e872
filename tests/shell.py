"""Finds which commands a shell script calls, without running it."""

import re

_KEYWORDS = {"case", "do", "done", "elif", "else", "esac", "fi", "for", "if", "then", "until", "while"}
# The shell's own, in every busybox.
_BUILTINS = {
    "break",
    "continue",
    "echo",
    "exec",
    "exit",
    "export",
    "printf",
    "read",
    "return",
    "set",
    "shift",
    "ulimit",
    "umask",
    "wait",
}

# What holds no command: an escaped character, arithmetic, a parameter; outside of quotes also '…' and a comment.
_SKIPPED_IN_QUOTES = re.compile(r"\\.|\$\(\(.*?\)\)|\$\{[^}]*\}")
_SKIPPED = re.compile(_SKIPPED_IN_QUOTES.pattern + r"|'[^']*'|(?<!\S)#.*")
_PLACEHOLDER = "Q"

_WORD = r"[^\s();|&]+"
_CASE_PATTERN = re.compile(rf"(?m)(^|;;|\bin)\s*{_WORD}(?: \| {_WORD})*\)")
_COMMAND = re.compile(
    r"(?m)(?:^|[;&|({!]|\)\s|\b(?:then|do|else|elif|if|while|until|stage)\b)\s*(?=([a-z_][a-z0-9_]*)(?:[ ;]|$))"
)
_COMMAND_ALONE = re.compile(r"\$\(([a-z_][a-z0-9_]*)\)")
_FUNCTION = re.compile(r"(?m)^(\w+)\(\)")


def commands(script: str) -> set[str]:
    """Return the words that stand where a command can begin, less keywords, built-ins and the script's functions."""
    bare = _CASE_PATTERN.sub(r"\1 ;", _without_quoted(script))
    found = {*_COMMAND.findall(bare), *_COMMAND_ALONE.findall(bare)}
    return found - _KEYWORDS - _BUILTINS - set(_FUNCTION.findall(script))


def _without_quoted(script: str) -> str:
    """Return the script with a placeholder for all that is quoted; substitutions of commands within quotes stay."""
    kept: list[str] = []
    # The brackets and quotes that are open: `"`, `$(` or `(`.
    inside: list[str] = []
    position = 0
    while position < len(script):
        in_quotes = inside[-1:] == ['"']
        if skipped := (_SKIPPED_IN_QUOTES if in_quotes else _SKIPPED).match(script, position):
            kept.append(_PLACEHOLDER)
            position = skipped.end()
            continue
        mark = "$(" if script.startswith("$(", position) else script[position]
        position += len(mark)
        if (mark == '"' and in_quotes) or (mark == ")" and inside and not in_quotes):
            inside.pop()
        elif mark in ('"', "$(") or (mark == "(" and not in_quotes):
            inside.append(mark)
        elif in_quotes:
            continue
        kept.append(_PLACEHOLDER if mark == '"' else mark)
    return "".join(kept)
