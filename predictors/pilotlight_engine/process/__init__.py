"""What a process needs before it becomes an engine: device, limits, environment, folders, death with its parent."""
