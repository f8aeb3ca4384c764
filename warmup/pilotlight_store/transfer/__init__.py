"""Getting the bytes: what is wanted, the plan of ranges, bandwidth, retries."""
