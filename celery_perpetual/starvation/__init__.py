"""The starvation ladder: the steps that follow when work waits and no worker starts it."""
