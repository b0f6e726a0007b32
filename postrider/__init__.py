"""Postrider: a self-hosted, scheduled multi-messenger dispatcher on Redis Queue."""
