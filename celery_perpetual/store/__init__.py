"""The store: the only room of this house that knows Redis commands, keys and scripts."""
