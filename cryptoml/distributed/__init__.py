"""The only Ray in the library: each stage maps a plain function over a cluster."""
