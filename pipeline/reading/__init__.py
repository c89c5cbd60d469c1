"""From a row set to batches of targets, in one order on any number of workers."""
