"""The process around an engine: its sockets, its threads, its door for lease holders, the zygote that forks it."""
