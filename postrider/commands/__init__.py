"""What people type: the subcommands of `postrider` beside those that start its processes. One file per part."""

from postrider.commands import (
    access,
    callbacks,
    doctor,
    encryption,
    files,
    hooks,
    messages,
    operations,
    simple,
    suppressions,
)

EVERY = (
    simple,
    files,
    suppressions,
    hooks,
    messages,
    operations,
    callbacks,
    access,
    encryption,
    doctor,
)
"""In the order in which help lists them."""
