"""Where models come from: hubs, object stores, HTTP, folders."""
