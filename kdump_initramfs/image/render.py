"""Jinja2: renders the list of hooks in /init and quoted settings. All other shell code is copied as it is."""

import shlex
from functools import cache
from typing import TYPE_CHECKING

from kdump_initramfs import resources

if TYPE_CHECKING:
    import jinja2


@cache
def _environment() -> "jinja2.Environment":
    import jinja2  # noqa: PLC0415 - half of what is imported for a build, and no estimate renders anything

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources.directory("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the output is shell, and every value passes the filter `sh`
    )
    environment.filters["sh"] = shlex.quote
    return environment


def render(template: str, **values: object) -> str:
    """Return the text of `template` (a file of templates/) with its values; one that is not given is an error."""
    return _environment().get_template(template).render(**values)
