"""From applied specs to endpoints that run: services, revisions, traffic, status."""
