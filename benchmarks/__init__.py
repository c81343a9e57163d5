"""Speed and quality against plain code and peers: each module prints ratios measured in one run."""
