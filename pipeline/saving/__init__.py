"""A trained student written to files, read again and compared; its model card."""
