"""A program that becomes a daemon as the books have it: fork, a new session, fork again.

It writes its process id into the file that its argument names, lets the program end, and then
sleeps for long.
"""

import os
import sys
import time

if __name__ == "__main__":
    heard, said = os.pipe()
    if os.fork():
        os.read(heard, 1)
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    with open(sys.argv[1], "w") as file:
        file.write(str(os.getpid()))
    os.write(said, b".")
    time.sleep(600)
