"""What people type: the subcommands of `postrider` beside those that start its processes. One file per part."""

from postrider.commands import (
    access,
    callbacks,
    doctor,
    encryption,
    files,
    hooks,
    messages,
    numbers,
    operations,
    sessions,
    simple,
    suppressions,
)

EVERY = (
    simple,
    files,
    suppressions,
    hooks,
    sessions,
    numbers,
    messages,
    operations,
    callbacks,
    access,
    encryption,
    doctor,
)
"""In the order in which help lists them."""
