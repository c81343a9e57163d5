"""Teach a bot's model its newest bars: a continual step, judged against the model that serves."""

from pathlib import Path

from cryptoml.data.market import Market
from cryptoml.models.bundle import Bundle, load_bundle, save_bundle
from cryptoml.models.registry import Registry
from cryptoml.update import Update, UpdateConfig, update
from cryptoml.walk_forward import compute_features

__all__ = ["renew_bundle"]


def renew_bundle(folder: Path, market: Market, config: UpdateConfig) -> Update:
    """Let a challenger learn what is new, and replace `folder/bundle` where it is better beyond noise.

    Every challenger stays in `folder/registry`.

    Args:
        folder: Holds `bundle`.
        market: History up to now, with bars that the bundle knows too.
        config: Rules; a refit needs a whole training and is left to `train_bundle`.

    Raises:
        BundleError: There is no bundle, or it is damaged.
        DataError: The market lacks a symbol, or holds too few bars.
    """
    registry, present = Registry(folder / "registry"), load_bundle(folder / "bundle")
    champion = registry.champion()
    if champion is None or _identity(registry.load()) != _identity(present):
        registry.promote(registry.add(present, reason="serves"), reason="serves")
    config = config.model_copy(update={"strategy": "continual"})
    done = update(registry, market.panel, compute=compute_features, refit=lambda _: present, config=config)
    if done.promoted:
        save_bundle(folder / "bundle", registry.load())
    return done


def _identity(bundle: Bundle) -> tuple[str, str, str]:
    return bundle.created_at, bundle.data_fingerprint, bundle.known_until
