"""Where a lease goes, who is next, who gives way, and what it will take."""
