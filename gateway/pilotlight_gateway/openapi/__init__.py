"""The gateway's OpenAPI document: its own routes, and those of the text API and V2 over every endpoint."""
