"""The student flow: train from a row set, measure, register."""
