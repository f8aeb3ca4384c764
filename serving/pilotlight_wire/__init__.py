"""The edge of every server and the streaming client: no framework, no component."""
