"""The findings for people."""

from collections.abc import Iterator

from kdump_initramfs.check.finding import Finding, Report, State

_INDENT = " " * 9


def lines(report: Report, *, everything: bool = False) -> Iterator[str]:
    """Yield the findings; of those that are ok what was seen, and with `everything` the reason too."""
    for finding in report.findings:
        yield from _lines(finding, everything=everything)
    yield f"{report.hostname}, kernel {report.kernel_release}: {_verdict(report)}"


def _lines(finding: Finding, *, everything: bool) -> Iterator[str]:
    state = finding.state.upper() if finding.state is State.BROKEN else finding.state
    yield f"{state:7}  {finding.name}: {finding.seen}"
    if everything or finding.state is not State.OK:
        yield f"{_INDENT}why: {finding.why}"
        if finding.remedy:
            yield f"{_INDENT}remedy: {finding.remedy}"


def _verdict(report: Report) -> str:
    counts = {state: sum(finding.state is state for finding in report.findings) for state in State}
    words = {
        State.OK: "fine",
        State.WEAK: "works, but weaker than it could",
        State.BROKEN: "not armed, or would not work",
    }
    shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{words[report.state]} ({shown})"
