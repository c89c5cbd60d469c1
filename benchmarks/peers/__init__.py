"""What others store per token, computed here from their published layouts on the same positions.

Every layout is a function of the likeliest ids and their log-probabilities to a `Stored`: bytes, and what is read back.
"""
