"""What a tenant may take: requests, tokens and places at once; reserved before a request runs, committed after it."""
