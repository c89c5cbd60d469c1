"""Questions in SQL: what may be asked, by whom, and the reference of the views."""
