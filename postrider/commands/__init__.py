"""What people type: the subcommands of `postrider` beside those that start its processes. One file per part."""

from postrider.commands import (
    access,
    callbacks,
    doctor,
    encryption,
    hooks,
    messages,
    operations,
    simple,
    suppressions,
)

EVERY = (simple, suppressions, hooks, messages, operations, callbacks, access, encryption, doctor)
"""In the order in which help lists them."""
