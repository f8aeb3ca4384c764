"""The holder's end of an engine's connection, and the provider that runs one as a child process."""
