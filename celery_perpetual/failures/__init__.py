"""What follows from a failure: of which class it is, how long to wait before the next try, and when to stop trying."""
