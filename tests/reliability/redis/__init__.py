"""What Redis can do to us: killed, frozen, full, read-only, failed over, its disk full or cut off."""
