"""Feed the hardware watchdogs that are active; guard.sh does that, from the moment that their drivers are loaded."""

from kdump_initramfs.config import Config
from kdump_initramfs.model import BuildOnly, Contribution, HostFacts, Text


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    if not host.watchdogs:
        return None
    drivers = tuple(driver for watchdog in host.watchdogs for driver in reversed(watchdog.drivers))
    modaliases = tuple(alias for watchdog in host.watchdogs for alias in reversed(watchdog.modaliases))
    identities = "".join(f"{watchdog.identity}\n" for watchdog in host.watchdogs)
    return BuildOnly(
        # Not each kernel has each of them: a dump without a watchdog is better than none.
        modaliases=(*drivers, *modaliases),
        entries=(Text(path="/etc/kdump/watchdogs", content=identities, reason="watchdogs to feed"),),
    )
