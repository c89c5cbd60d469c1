"""What the report page asks of the lake: one question a file, bounded in rows whatever the lake's size."""
