"""What a person sees on a terminal: messages, tables, progress and units."""
