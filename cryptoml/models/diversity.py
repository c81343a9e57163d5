"""How differently the members of an ensemble err: averaging cancels only what they do not err alike."""

import numpy as np
from jaxtyping import Float, Integer

__all__ = ["error_correlation"]


def error_correlation(
    member_probabilities: Float[np.ndarray, "member sample class"], labels: Integer[np.ndarray, " sample"]
) -> Float[np.ndarray, "member member"]:
    """Correlation of the members' errors, pair by pair; an error is the probabilities less the label's 0 and 1.

    The Brier score of a mixture with weights w is w' S w, where S holds the mean products of these errors: the lower the
    correlations, the more the mixture gains over its members. Much of every error is the labels' own noise, which all
    members share, so that values near 1 are common and differences between pairs tell more than their level.

    Raises:
        ValueError: no sample, or shapes that do not fit.
    """
    probabilities = np.asarray(member_probabilities, dtype=np.float64)
    if probabilities.ndim != 3 or np.shape(labels) != probabilities.shape[1:2] or not len(labels):
        raise ValueError(
            f"member_probabilities must be [member, sample, class] with at least one sample for labels of shape "
            f"{list(np.shape(labels))}, was {list(probabilities.shape)}"
        )
    errors = probabilities - np.eye(probabilities.shape[2])[np.asarray(labels)]
    deviations = errors.reshape(len(errors), -1)  # the errors of a sample sum to 0, so their mean is 0
    products = deviations @ deviations.T
    scale = np.sqrt(np.outer(products.diagonal(), products.diagonal()))
    return np.divide(products, scale, out=np.eye(len(products)), where=scale > 0)
