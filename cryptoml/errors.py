"""Errors that a user can act on.

Every message names the field, the value found and what would be right. Command-line jobs print it as one line.
"""

__all__ = ["BundleError", "ConfigError", "CryptomlError", "DataError"]


class CryptomlError(Exception):
    """Base of all errors that cryptoml raises on purpose."""


class ConfigError(CryptomlError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(CryptomlError):
    """Input data violates its schema in a way that cannot be quarantined."""


class BundleError(CryptomlError):
    """A model on disk is damaged, incomplete, or does not match its manifest."""
