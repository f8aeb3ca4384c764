"""What was taken, and what it costs: exact counts by tenant, endpoint, model and day, and the prices of that time."""
