"""The same jobs for scripts, over HTTP."""
