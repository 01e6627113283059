"""What follows when work waits and no worker starts it: the starvation ladder."""
