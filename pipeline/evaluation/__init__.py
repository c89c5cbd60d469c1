"""Students measured on held-out documents, and the decision between two of them."""
