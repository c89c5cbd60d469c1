"""From a distribution to a stored target and back: sparsifiers, quantiser, encoding, decoding."""
