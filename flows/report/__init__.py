"""The report: what a lake holds and what it taught, as one page that needs nothing but itself."""
