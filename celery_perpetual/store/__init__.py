"""The store: the only room that sends Redis commands to it; scripts for what decides, ``commands`` for what reads."""
