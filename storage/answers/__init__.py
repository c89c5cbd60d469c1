"""What the lake tells about itself: lists, details, history, report."""
