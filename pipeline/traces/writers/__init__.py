"""What runs the model that writes traces. One file each."""
