"""A streamed answer that another process began, or may have to finish: its tokens told, replayed and continued."""
