"""The nightly flow: capture new documents; train, measure, and promote or reject a candidate."""
