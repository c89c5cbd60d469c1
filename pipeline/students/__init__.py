"""What a student is made from, what it is called, and what is saved beside it."""
